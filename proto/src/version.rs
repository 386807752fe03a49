//! Which versions of the software work together: those of one major version whose minor versions are at most one apart.

use crate::VERSION;

/// Longest part of a foreign version that is repeated in a text.
const SHOWN: usize = 32;

/// Major and minor of a version such as `0.2.0` or `0.2.0-rc.1`.
fn parts(text: &str) -> Option<(u64, u64)> {
    let mut numbers = text.split('.');
    let number = |part: Option<&str>| part.filter(|p| p.len() <= 9 && !p.starts_with('+')).and_then(|p| p.parse().ok());
    let (major, minor) = (number(numbers.next())?, number(numbers.next())?);
    let patch = numbers.next()?;
    patch.starts_with(|c: char| c.is_ascii_digit()).then_some((major, minor))
}

/// Checks the version that the other side says it has against our own.
///
/// # Errors
/// Both versions, and which side to update.
pub fn check(theirs: &str) -> Result<(), String> {
    check_between("the other side", theirs, "this side", VERSION)
}

/// As [`check`], for texts that the other side reads too: `them` and `us` are names such as `the agent`.
///
/// # Errors
/// Both versions, and which side to update.
pub fn check_between(them: &str, theirs: &str, us: &str, ours: &str) -> Result<(), String> {
    let shown: String = theirs.chars().take(SHOWN).collect();
    let Some((major, minor)) = parts(theirs) else {
        return Err(format!("{them} says that its version is {shown:?}, which is none; {us} has version {ours}: update {them}"));
    };
    let (our_major, our_minor) = parts(ours).expect("our own version has three numbers");
    if major == our_major && minor.abs_diff(our_minor) <= 1 {
        return Ok(());
    }
    let older = if (major, minor) < (our_major, our_minor) { them } else { us };
    Err(format!(
        "{them} has version {shown} and {us} has version {ours}: they work together if their minor versions are at most one \
         apart; update {older}"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(theirs: &str, ours: &str) -> Result<(), String> {
        check_between("the agent", theirs, "the coordinator", ours)
    }

    #[test]
    fn one_minor_version_apart_works_together() {
        assert_eq!(check(VERSION), Ok(()));
        for theirs in ["0.1.0", "0.1.9", "0.2.0", "0.2.7-rc.1", "0.3.0"] {
            assert_eq!(outcome(theirs, "0.2.0"), Ok(()), "{theirs}");
        }
    }

    #[test]
    fn versions_further_apart_are_named_with_the_side_to_update() {
        let text = "the agent has version 0.4.1 and the coordinator has version 0.2.0: they work together if their minor \
                    versions are at most one apart; update the coordinator";
        assert_eq!(outcome("0.4.1", "0.2.0"), Err(text.into()));
        assert!(outcome("0.4.1", "0.6.0").unwrap_err().ends_with("update the agent"));
        assert!(outcome("1.2.0", "0.2.0").unwrap_err().ends_with("update the coordinator"));
        assert!(outcome("0.9.0", "1.0.0").unwrap_err().ends_with("update the agent"));
    }

    #[test]
    fn what_is_no_version_is_shown_shortened() {
        for bad in ["", "test", "0.2", "0.2.x", "+0.2.0", "-1.2.0", "99999999999999999999.2.0", "0.2.0\n"] {
            let outcome = outcome(bad, "0.2.0");
            if bad == "0.2.0\n" {
                assert_eq!(outcome, Ok(()), "only major and minor are judged");
                continue;
            }
            let error = outcome.unwrap_err();
            assert!(error.contains("0.2.0") && error.ends_with("update the agent"), "{error}");
        }
        let long = outcome(&"x".repeat(5000), "0.2.0").unwrap_err();
        assert!(long.len() < 200, "{}", long.len());
    }
}
