//! How a text becomes tokens: the same at every member, without a vocabulary that would have to be exchanged.
//!
//! A word is a longest run of letters and digits, in lower case. Token 0 is padding; others are counted from 1. Scripts
//! that put no spaces between words are better served by bytes.

use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::collections::BTreeMap;
use tessera_common::spec::SpecError;

/// Most tokens of a vocabulary; a token must be exact as an f32, which is what inputs are made of.
const MOST: usize = 1 << 20;

/// A way of making tokens.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case", expecting = "write \"bytes\", { hash = 4096 } or { list = [\"a\", \"b\"] }")]
pub enum Words {
    /// A word's token is a hash of it; so many different tokens.
    Hash(usize),
    /// The words that have tokens, in order; others have none.
    List(Vec<String>),
    /// Each byte of the UTF-8 text is a token.
    Bytes,
}

impl Default for Words {
    fn default() -> Self {
        Self::Hash(4096)
    }
}

impl Words {
    /// Number of tokens, padding included.
    pub fn size(&self) -> usize {
        match self {
            Self::Hash(size) => size + 1,
            Self::List(words) => words.len() + 1,
            Self::Bytes => 257,
        }
    }

    /// # Errors
    /// If there is no token, there are too many, or a listed word could never be found.
    pub(super) fn check(&self) -> Result<(), SpecError> {
        let fault = |why: String| Err(SpecError::invalid("model.text.words", why));
        match self {
            Self::Hash(size) if !(1..=MOST).contains(size) => fault(format!("hash must be 1 to {MOST}")),
            Self::List(words) if !(1..=MOST).contains(&words.len()) => fault(format!("list must have 1 to {MOST} words")),
            Self::List(words) => {
                let mut sorted: Vec<&String> = words.iter().collect();
                sorted.sort_unstable();
                if let Some(pair) = sorted.windows(2).find(|pair| pair[0] == pair[1]) {
                    return fault(format!("{:?} is listed twice", pair[0]));
                }
                match words.iter().find(|word| !split(word).eq([word.as_str()])) {
                    Some(word) => fault(format!("{word:?} is not one word of letters and digits in lower case")),
                    None => Ok(()),
                }
            }
            Self::Hash(_) | Self::Bytes => Ok(()),
        }
    }

    /// What finds tokens; made once, used for every text.
    pub(super) fn lookup(&self) -> Lookup {
        match self {
            Self::Hash(size) => Lookup::Hash(*size),
            Self::List(words) => Lookup::List((1..).zip(words).map(|(token, word)| (word.clone(), token)).collect()),
            Self::Bytes => Lookup::Bytes,
        }
    }
}

/// Finds the tokens of texts, see [`Words::lookup`].
#[derive(Debug, Clone)]
pub(super) enum Lookup {
    /// Number of tokens besides padding.
    Hash(usize),
    /// The token of each word.
    List(BTreeMap<String, usize>),
    /// See [`Words::Bytes`].
    Bytes,
}

impl Lookup {
    /// The first `context` tokens of `text`, padded with 0 to that length, `[context]`; each is below [`Words::size`].
    pub(super) fn tokens(&self, text: &str, context: usize) -> Vec<f32> {
        let mut tokens: Vec<f32> = Vec::with_capacity(context);
        let found = |token: usize| token as f32;
        match self {
            Self::Hash(size) => tokens.extend(split(text).map(|word| found(1 + hash(&word, *size))).take(context)),
            Self::List(words) => {
                tokens.extend(split(text).filter_map(|word| words.get(&*word).copied()).map(found).take(context));
            }
            Self::Bytes => tokens.extend(text.bytes().map(|byte| found(1 + usize::from(byte))).take(context)),
        }
        tokens.resize(context, 0.0);
        tokens
    }
}

/// The words of a text. A word is put in lower case by itself, so that its token does not depend on what stands around it.
fn split(text: &str) -> impl Iterator<Item = Cow<'_, str>> {
    let words = text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty());
    words.map(|word| match word.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit()) {
        true => Cow::Borrowed(word),
        false => Cow::Owned(word.to_lowercase()),
    })
}

/// blake3 is there already and has one result everywhere.
fn hash(word: &str, size: usize) -> usize {
    let digest = blake3::hash(word.as_bytes());
    let first = digest.as_bytes().first_chunk::<8>().map_or(0, |bytes| u64::from_le_bytes(*bytes));
    (first % size.max(1) as u64) as usize
}

/// The text of features that are its bytes, padded with zeros; bytes that are no UTF-8 become replacement characters.
///
/// A character that was cut off at the end is left out: it is no sign of its own.
pub(super) fn text_of(features: &[f32]) -> String {
    let mut bytes: Vec<u8> = features.iter().map(|&v| v as u8).take_while(|&byte| byte != 0).collect();
    let whole = bytes.utf8_chunks().last().map_or(0, |last| if is_cut(last.invalid()) { last.invalid().len() } else { 0 });
    bytes.truncate(bytes.len() - whole);
    String::from_utf8_lossy(&bytes).into_owned()
}

/// True for the start of a character whose rest is missing.
fn is_cut(invalid: &[u8]) -> bool {
    std::str::from_utf8(invalid).is_err_and(|e| e.error_len().is_none())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn features(text: &str, dim: usize) -> Vec<f32> {
        let mut features: Vec<f32> = text.bytes().map(f32::from).collect();
        features.resize(dim, 0.0);
        features
    }

    fn list(words: &[&str]) -> Words {
        Words::List(words.iter().map(|&word| word.to_owned()).collect())
    }

    #[test]
    fn words_are_runs_of_letters_and_digits_in_lower_case() {
        let words = |text| split(text).collect::<Vec<_>>();
        assert_eq!(words("Grinning Face, 2nd--try!"), ["grinning", "face", "2nd", "try"]);
        assert_eq!(words("ÉCLAIR Straße ΟΔΟΣ 三毛猫"), ["éclair", "straße", "οδος", "三毛猫"]);
        assert!(words("").is_empty() && words(" \n,;\u{1f600}").is_empty());
    }

    #[test]
    fn listed_words_are_found_in_order_and_others_have_no_token() {
        let lookup = list(&["red", "circle", "éclair"]).lookup();
        assert_eq!(lookup.tokens("a RED, red Éclair (circle)", 6), [1.0, 1.0, 3.0, 2.0, 0.0, 0.0]);
        assert_eq!(lookup.tokens("unknown circle red", 1), [2.0], "unknown words take no place");
        assert_eq!(lookup.tokens("", 2), [0.0, 0.0]);
        assert!(lookup.tokens("red", 0).is_empty());
    }

    #[test]
    fn hashes_depend_on_the_word_alone_and_stay_below_the_size() {
        let lookup = Words::Hash(4096).lookup();
        // blake3 of "circle" starts with these bytes
        let first = u64::from_le_bytes(*blake3::hash(b"circle").as_bytes().first_chunk().unwrap());
        assert_eq!(lookup.tokens("Circle", 2), [(1 + first % 4096) as f32, 0.0]);
        assert_eq!(lookup.tokens("red circle", 2)[1], lookup.tokens("CIRCLE", 1)[0]);
        let text: String = (0..500).map(|i| format!("word{i} ")).collect();
        for size in [1, 2, 300] {
            let words = Words::Hash(size);
            let tokens = words.lookup().tokens(&text, 500);
            assert!(tokens.iter().all(|&token| (1.0..words.size() as f32).contains(&token)));
            let different: std::collections::BTreeSet<u32> = tokens.iter().map(|&token| token as u32).collect();
            assert!(different.len() > size / 2, "{} different tokens of {size}", different.len());
        }
    }

    #[test]
    fn bytes_are_tokens_and_a_text_is_cut_off_at_the_context() {
        let lookup = Words::Bytes.lookup();
        assert_eq!(lookup.tokens("aé", 5), [98.0, 196.0, 170.0, 0.0, 0.0]);
        assert_eq!(lookup.tokens("abc", 2), [98.0, 99.0]);
        assert!(lookup.tokens("\u{10ffff}", 4).iter().all(|&token| token < Words::Bytes.size() as f32));
    }

    #[test]
    fn features_become_the_text_that_they_are_made_of() {
        assert_eq!(text_of(&features("Grüße", 16)), "Grüße");
        assert_eq!(text_of(&features("Grüße", 7)), "Grüße", "no zero is needed at the end");
        assert_eq!(text_of(&features("Grüße", 7)[..3]), "Gr", "half a character is left out");
        assert_eq!(text_of(&[]), "");
        assert_eq!(text_of(&[0.0, 97.0]), "");
        assert_eq!(text_of(&[97.0, 255.0, 98.0]), "a\u{fffd}b");
        assert_eq!(text_of(&[97.0, 255.0]), "a\u{fffd}", "no character starts so");
        assert_eq!(text_of(&[97.0, f32::NAN, 98.0]), "a");
        assert_eq!(text_of(&[f32::INFINITY, -3.0, 98.0]), "\u{fffd}");
    }

    #[test]
    fn words_that_could_never_be_found_are_refused() {
        for (words, part) in [
            (list(&["red", "blue", "red"]), "\"red\" is listed twice"),
            (list(&["red", "Blue"]), "\"Blue\" is not one word"),
            (list(&["dark red"]), "\"dark red\" is not one word"),
            (list(&[""]), "\"\" is not one word"),
            (list(&[]), "list must have 1 to"),
            (Words::Hash(0), "hash must be 1 to"),
            (Words::Hash(MOST + 1), "hash must be 1 to"),
        ] {
            let why = words.check().unwrap_err().to_string();
            assert!(why.contains(part) && why.contains("model.text.words"), "{why}");
        }
        for words in [list(&["red", "éclair", "三毛猫", "2nd"]), Words::Hash(1), Words::Hash(MOST), Words::Bytes] {
            words.check().unwrap();
        }
    }
}
