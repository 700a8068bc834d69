//! The file in which the ledger outlives the program. Written rarely (flash wears out) and in one piece (the power may
//! go at any moment); a file that cannot be used is set aside, not overwritten.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use crate::limits::STATE_FILE_BYTES_MAX;
use crate::route::saved::Saved;

/// Where the state is kept: `state_file` of the config, else in the directory that systemd made for us, else nowhere.
pub fn path(configured: Option<&Path>, env: &dyn Fn(&str) -> Option<String>) -> Option<PathBuf> {
    if let Some(path) = configured {
        return Some(path.to_owned());
    }
    // Several are separated by colons (systemd.exec(5)).
    let directories = env("STATE_DIRECTORY")?;
    let first = directories.split(':').next().filter(|first| !first.is_empty())?;
    Some(Path::new(first).join("state.json"))
}

/// What an earlier run has left. `None` if there is no file.
///
/// # Errors
/// Why the file is of no use, in words.
pub fn load(path: &Path) -> Result<Option<Saved>, String> {
    match read(path) {
        Ok(text) => Saved::parse(&text).map(Some).map_err(|why| why.to_string()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e.to_string()),
    }
}

/// The same for a run that goes on to write the file: what cannot be used is set aside and named in the log.
pub fn load_or_set_aside(path: &Path) -> Option<Saved> {
    let why = match load(path) {
        Ok(saved) => return saved,
        Err(why) => why,
    };
    let shown = path.display();
    // A directory, say, that somebody has named by mistake.
    if !path.is_file() {
        log::warn!("state file {shown}: {why}; starting without what it knows");
        return None;
    }
    let mut aside = path.as_os_str().to_owned();
    aside.push(".bad");
    match fs::rename(path, &aside) {
        Ok(()) => {
            let aside = Path::new(&aside).display();
            log::warn!("state file {shown}: {why}; set aside as {aside}, starting without it");
        }
        Err(e) => log::warn!("state file {shown}: {why}, and it cannot be set aside: {e}"),
    }
    None
}

fn read(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    File::open(path)?.take(STATE_FILE_BYTES_MAX + 1).read_to_string(&mut text)?;
    if text.len() as u64 > STATE_FILE_BYTES_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it is too large"));
    }
    Ok(text)
}

/// Replaces the file. Whenever the power goes, either the old or the new one is there.
///
/// # Errors
/// What the system says. The old file is still there then.
pub fn write(path: &Path, text: &str) -> io::Result<()> {
    // The last write of a run must not meet one that is under way.
    static WRITING: Mutex<()> = Mutex::new(());
    let _writing = WRITING.lock().unwrap_or_else(PoisonError::into_inner);
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".new");
    let temporary = Path::new(&temporary);
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(temporary)?;
    file.write_all(text.as_bytes())?;
    file.write_all(b"\n")?;
    file.sync_all()?;
    fs::rename(temporary, path)?;
    // The new name is on the disk only with its directory. Not every file system can do that.
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let _ = File::open(directory).and_then(|directory| directory.sync_all());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_the_state_is_kept() {
        let env = |value: Option<&'static str>| move |_: &str| value.map(str::to_owned);
        for (configured, directory, expected) in [
            (None, None, None),
            (Some("/a/b"), Some("/var/lib/x"), Some("/a/b")),
            (None, Some("/var/lib/x"), Some("/var/lib/x/state.json")),
            (None, Some("/var/lib/x:/var/lib/y"), Some("/var/lib/x/state.json")),
            (None, Some(""), None),
        ] {
            let found = path(configured.map(Path::new), &env(directory));
            assert_eq!(found.as_deref(), expected.map(Path::new), "{configured:?} {directory:?}");
        }
    }
}
