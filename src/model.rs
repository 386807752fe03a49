//! `tessera model`: the models that runs make.

use crate::cli::{self, Failure, Kind, failure, invalid, print, size};
use crate::run::{self, Target, kept, not_kept};
use anyhow::{Context, Result, anyhow};
use serde_json::json;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;
use tessera_common::id::{Digest, Round};
use tessera_common::param::{Limits, ParamSet, block_of};
use tessera_proto::convert::digest_bytes;
use tessera_proto::v1::DownloadRequest;
use tessera_proto::v1::admin_client::AdminClient;
use tonic::transport::Channel;

/// Attempts without a new byte before a download is given up; what came stays for the next time.
const ATTEMPTS: u32 = 5;
/// Pause before a download that broke off goes on.
const AGAIN: Duration = Duration::from_secs(1);

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    target: Target,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Write the model of a run to a safetensors file, for PyTorch and others. Broken off, the same command goes on.
    Export(Export),
}

#[derive(Debug, clap::Args)]
struct Export {
    /// Id of the run.
    run: String,
    /// The round whose model it is, the latest if not given; `tessera run globals` lists those that are kept.
    #[arg(long, value_name = "R")]
    round: Option<Round>,
    /// File to write.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Everything that the coordinator has of the model, as it is: parameters, prototypes and standardisation.
    #[arg(long)]
    whole: bool,
    /// Replace the file if it is there.
    #[arg(long)]
    force: bool,
}

pub(crate) fn main(arguments: Arguments) -> Result<ExitCode> {
    let Arguments { target, verb: Verb::Export(export) } = arguments;
    check_out(&export.out, export.force)?;
    cli::runtime()?.block_on(async {
        tokio::select! {
            outcome = self::export(&target, &export) => outcome,
            () = cli::interrupted() => Err(failure(Kind::Interrupted, "interrupted; the same command goes on where it stopped")),
        }
    })?;
    Ok(ExitCode::SUCCESS)
}

/// Refuses to write over what is there.
fn check_out(out: &Path, force: bool) -> Result<()> {
    if out.file_name().is_none() || out.is_dir() {
        return Err(invalid(format!("--out {}: give the name of a file", out.display())));
    }
    if !force && fs::symlink_metadata(out).is_ok() {
        return Err(invalid(format!(
            "--out {} is there already: choose another name, or replace it with --force",
            out.display()
        )));
    }
    Ok(())
}

async fn export(target: &Target, export: &Export) -> Result<()> {
    let mut admin = target.connect().await?;
    let (round, digest) = find(&mut admin, &export.run, export.round).await?;
    let part = beside(&export.out, &format!("{}.part", digest.short()));
    let whole = download(target, admin, &digest, &part).await?;
    if export.whole {
        // the download is the file: it is durable under its name at once
        fs::rename(&part, &export.out).with_context(|| format!("cannot write {}", export.out.display()))?;
    } else {
        let set = ParamSet::from_bytes(&whole, &Limits::default())
            .map_err(|e| anyhow!("model {} of the coordinator is not usable: {e}", digest.short()))?;
        write_whole(&export.out, &parameters(&set).to_bytes())?;
        fs::remove_file(&part).with_context(|| format!("cannot remove {}", part.display()))?;
    }
    sync_parent(&export.out)?;
    let bytes = fs::metadata(&export.out).with_context(|| format!("cannot look at {}", export.out.display()))?.len();
    let out = export.out.display();
    if target.json {
        print(json!({
            "run": export.run, "round": round, "model": digest.to_string(), "out": out.to_string(), "bytes": bytes,
            "whole": export.whole,
        }));
    } else {
        print(format_args!("{out}: model {} of {}, round {round}, {}", digest.short(), export.run, size(bytes)));
    }
    Ok(())
}

/// The round and digest of the model that is asked for.
async fn find(admin: &mut AdminClient<Channel>, run: &str, round: Option<Round>) -> Result<(Round, Digest)> {
    let Some(round) = round else {
        let summary = run::detail(admin, run).await?.summary.unwrap_or_default();
        let none = || failure(Kind::NotFound, format!("run {run} has no model yet: it is {}", cli::one_line(&summary.phase)));
        return Ok((summary.round, Digest::try_from(&summary.global[..]).map_err(|_| none())?));
    };
    let globals = kept(admin, run).await?;
    let found = globals.iter().find(|g| g.round == round).ok_or_else(|| not_kept(run, round, &globals))?;
    Ok((round, Digest::try_from(&found.digest[..])?))
}

/// Fetches a blob into the file `part`, behind what an earlier attempt left there, and returns its bytes.
async fn download(target: &Target, admin: AdminClient<Channel>, digest: &Digest, part: &Path) -> Result<Vec<u8>> {
    let cannot = || format!("cannot write {}", part.display());
    let mut file = File::options().create(true).append(true).open(part).with_context(cannot)?;
    let mut admin = Some(admin);
    let mut idle = 0;
    loop {
        let before = file.metadata().with_context(cannot)?.len();
        let outcome = async {
            let mut admin = match admin.take() {
                Some(admin) => admin,
                None => target.connect().await?,
            };
            fetch(&mut admin, digest, before, &mut file).await
        };
        match outcome.await {
            Ok(()) => break,
            Err(error) if !breaks_off(&error) && before > 0 => {
                return Err(error.context(format!("cannot go on with {}; without that file it starts anew", part.display())));
            }
            Err(error) if !breaks_off(&error) => return Err(error),
            Err(error) => {
                idle = if file.metadata().with_context(cannot)?.len() > before { 0 } else { idle + 1 };
                if idle == ATTEMPTS {
                    return Err(error.context("the download broke off; the same command goes on where it stopped"));
                }
                tracing::warn!(error = format!("{error:#}"), "the download broke off; going on");
                tokio::time::sleep(AGAIN).await;
            }
        }
    }
    file.sync_all().with_context(cannot)?;
    let bytes = fs::read(part).with_context(|| format!("cannot read {}", part.display()))?;
    if Digest::of(&bytes) == *digest {
        return Ok(bytes);
    }
    fs::remove_file(part).with_context(|| format!("cannot remove {}", part.display()))?;
    Err(anyhow!("the bytes that came are not those of model {}; they are thrown away: try again", digest.short()))
}

fn breaks_off(error: &anyhow::Error) -> bool {
    error.downcast_ref::<Failure>().is_some_and(|f| f.kind == Kind::Unreachable)
}

/// Fetches a blob from `offset` on and writes it to `sink`. The digest is for the caller to check.
///
/// # Errors
/// If the coordinator does not have it, the connection breaks off, or `sink` takes no more.
pub(crate) async fn fetch(
    admin: &mut AdminClient<Channel>,
    digest: &Digest,
    offset: u64,
    sink: &mut (dyn Write + Send),
) -> Result<()> {
    let request = DownloadRequest { digest: digest_bytes(digest), offset };
    let mut stream = admin.fetch_blob(request).await.map_err(run::status)?.into_inner();
    let (mut at, mut total) = (offset, None);
    while let Some(message) = stream.message().await.map_err(run::status)? {
        total = total.or(Some(message.total));
        sink.write_all(&message.chunk).context("cannot write what the coordinator sent")?;
        at += message.chunk.len() as u64;
    }
    match total {
        Some(total) if at >= total => Ok(()),
        _ => Err(failure(Kind::Unreachable, format!("blob {} broke off after {at} bytes", digest.short()))),
    }
}

/// Parameters under the names that a PyTorch twin gives them, `encoder.left.l1.weight`.
pub(crate) fn parameters(global: &ParamSet) -> ParamSet {
    let mut model = ParamSet::new();
    for (name, tensor) in global.section("param/") {
        if let Some(block) = block_of(name) {
            let leaf = &name["param/".len() + block.len() + 1..];
            model.insert(format!("{block}.{leaf}"), tensor.clone());
        }
    }
    model
}

/// `DIR/.NAME.suffix` for `DIR/NAME`.
fn beside(out: &Path, suffix: &str) -> PathBuf {
    let name = out.file_name().unwrap_or_default().to_string_lossy();
    out.with_file_name(format!(".{name}.{suffix}"))
}

/// Writes a file so that whoever looks finds it as a whole or not at all.
fn write_whole(out: &Path, bytes: &[u8]) -> Result<()> {
    let temporary = beside(out, "tmp");
    let write = || -> std::io::Result<()> {
        let mut file = File::create(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, out)
    };
    write().with_context(|| format!("cannot write {}", out.display()))
}

/// Makes the name durable.
fn sync_parent(out: &Path) -> Result<()> {
    let parent = out.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if cfg!(unix) {
        File::open(parent).and_then(|dir| dir.sync_all()).with_context(|| format!("cannot fsync {}", parent.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tessera_common::param::Tensor;

    fn tensor() -> Tensor {
        Tensor::f32(&[2], &[1.0, 2.0])
    }

    #[test]
    fn parameters_have_the_names_of_a_twin_and_nothing_else_is_taken() {
        let mut global = ParamSet::new();
        for name in ["param/encoder.left/l1.weight", "param/head/bias", "proto/left/mean", "input/left/std", "width/left"] {
            global.insert(name, tensor());
        }
        let model = parameters(&global);
        assert_eq!(model.iter().map(|(name, _)| name).collect::<Vec<_>>(), ["encoder.left.l1.weight", "head.bias"]);
    }

    #[test]
    fn nothing_is_overwritten_unasked() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("model.safetensors");
        assert!(check_out(&out, false).is_ok());
        write_whole(&out, b"one").unwrap();
        let error = check_out(&out, false).unwrap_err();
        assert!(error.to_string().contains("is there already") && error.to_string().contains("--force"), "{error}");
        assert_eq!(cli::exit_code_of(&error), ExitCode::from(4));
        assert!(check_out(&out, true).is_ok());
        assert!(check_out(dir.path(), true).unwrap_err().to_string().contains("name of a file"));
        write_whole(&out, b"two").unwrap();
        sync_parent(&out).unwrap();
        assert_eq!(fs::read(&out).unwrap(), b"two");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "no temporary file is left");
    }

    #[test]
    fn a_part_lies_beside_the_file() {
        assert_eq!(beside(Path::new("a/model.st"), "x.part"), Path::new("a/.model.st.x.part"));
        assert_eq!(beside(Path::new("model.st"), "tmp"), Path::new(".model.st.tmp"));
    }
}
