//! Where credentials come from: a file, a command, the environment, a terminal. Nothing here is printed or kept.

use super::console::Console;
use crate::error::{Error, Result};
use crate::session::{Purpose, Session};
use crate::settings::{CredentialSource, Settings};
use chunkstore::key::Credential;
use rustix::termios::OptionalActions;
use std::cell::OnceCell;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{ErrorKind, IsTerminal, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::RecvTimeoutError;
use std::time::Duration;
use zeroize::Zeroizing;

const BYTES_MAX: u64 = 64 << 10;
const SIGNAL_POLL: Duration = Duration::from_millis(50);

impl Console {
    /// Opens the repository with whatever credential the settings name.
    pub fn open(&self, verb: &str, purpose: Purpose) -> Result<Session> {
        let session = Session::open(&self.settings, verb, purpose, &|place| self.credential(place))?;
        self.tell_passed_over(&session);
        Ok(session)
    }

    /// Opens the repository for writing without waiting for its lock; the secret is asked for once and kept in `kept`.
    pub fn open_again(&self, settings: &Settings, verb: &str, kept: &OnceCell<Zeroizing<Vec<u8>>>) -> Result<Session> {
        let mut settings = settings.clone();
        settings.lock_wait = Duration::ZERO;
        let session = Session::open(&settings, verb, Purpose::Write, &|place| {
            let secret = match kept.get() {
                Some(secret) => secret.clone(),
                None => self.secret(&settings.credential, &|| self.prompt(&format!("Passphrase for {place}: ")))?,
            };
            let credential = Credential::from_text(&secret)?;
            Ok((credential, kept.set(secret)).0)
        })?;
        self.tell_passed_over(&session);
        Ok(session)
    }

    fn tell_passed_over(&self, session: &Session) {
        for (place, reason) in &session.passed_over {
            self.warn(&format!("{place} is away, another site is used: {reason}"));
        }
    }

    /// The credential that the settings name, asked for if they name none.
    pub fn credential(&self, place: &str) -> Result<Credential> {
        let prompt = || self.prompt(&format!("Passphrase for {place}: "));
        Ok(Credential::from_text(&self.secret(&self.settings.credential, &prompt)?)?)
    }

    /// The recovery key: from `file`, from the settings if what they name is one, else asked for.
    pub fn recovery_key(&self, place: &str, file: Option<&Path>) -> Result<Credential> {
        let ask = || {
            if !has_terminal() {
                let reason = "there is no terminal to ask for it; give --recovery-key-file";
                return Err(Error::argument("recovery key", reason));
            }
            self.prompt(&format!("Recovery key for {place}: "))
        };
        let text = match file {
            Some(file) => self.file(file)?,
            None => match self.secret(&self.settings.credential, &ask)? {
                // The settings name the passphrase that was lost.
                text if !is_recovery_key(&text) && self.settings.credential != CredentialSource::Prompt => ask()?,
                text => text,
            },
        };
        match Credential::from_text(&text)? {
            credential @ Credential::Recovery(_) => Ok(credential),
            _ => Err(Error::argument("recovery key", "expected the text that begins with nkr1-")),
        }
    }

    /// The passphrase of a repository that is about to be made, from wherever credentials come from.
    pub fn first_passphrase(&self) -> Result<Zeroizing<Vec<u8>>> {
        let secret = self.secret(&self.settings.credential, &|| self.prompt_twice())?;
        self.passphrase(&secret)
    }

    /// A further or a changed passphrase: from `file`, else from the terminal.
    pub fn new_passphrase(&self, file: Option<&Path>) -> Result<Zeroizing<Vec<u8>>> {
        let secret = match file {
            Some(file) => self.file(file)?,
            None if !has_terminal() => {
                let reason = "there is no terminal to ask for it; give --new-password-file";
                return Err(Error::argument("new passphrase", reason));
            }
            None => self.prompt_twice()?,
        };
        self.passphrase(&secret)
    }

    /// Asks on the terminal, without echo.
    pub fn prompt(&self, text: &str) -> Result<Zeroizing<Vec<u8>>> {
        if !has_terminal() {
            return Err(Error::NoCredential);
        }
        let typed = self.interrupts.watched(|interrupted| ask(text, interrupted));
        self.interrupts.check()?;
        match typed {
            Some(Ok(typed)) => Ok(Zeroizing::new(typed.into_bytes())),
            Some(Err(error)) if error.kind() == ErrorKind::Interrupted => Err(chunkstore::Error::Interrupted.into()),
            _ => Err(Error::argument("passphrase", "none was typed")),
        }
    }

    fn prompt_twice(&self) -> Result<Zeroizing<Vec<u8>>> {
        let first = self.prompt("New passphrase: ")?;
        if *self.prompt("The same again: ")? == *first {
            Ok(first)
        } else {
            Err(Error::argument("new passphrase", "the two differ"))
        }
    }

    fn secret(
        &self,
        source: &CredentialSource,
        prompt: &dyn Fn() -> Result<Zeroizing<Vec<u8>>>,
    ) -> Result<Zeroizing<Vec<u8>>> {
        match source {
            CredentialSource::File(path) => self.file(path),
            CredentialSource::Command(command) => from_command(command),
            CredentialSource::Text(text) => Ok(text.clone()),
            CredentialSource::Prompt => prompt(),
        }
    }

    fn file(&self, path: &Path) -> Result<Zeroizing<Vec<u8>>> {
        let place = path.display().to_string();
        let failed = |error: std::io::Error| Error::Credential { place: place.clone(), reason: error.to_string() };
        let file = File::open(path).map_err(failed)?;
        let metadata = file.metadata().map_err(failed)?;
        if metadata.is_file() && metadata.permissions().mode() & 0o004 != 0 {
            self.warn(&format!("every user of this machine can read {place}: chmod o= {place}"));
        }
        let mut secret = Zeroizing::new(Vec::new());
        file.take(BYTES_MAX + 1).read_to_end(&mut secret).map_err(failed)?;
        bounded(secret, &place)
    }

    /// What a passphrase slot can be made of.
    fn passphrase(&self, secret: &[u8]) -> Result<Zeroizing<Vec<u8>>> {
        match Credential::from_text(secret)? {
            Credential::Passphrase(text) if text.is_empty() => Err(Error::argument("new passphrase", "it is empty")),
            Credential::Passphrase(text) => Ok(text),
            Credential::Recovery(_) | Credential::Write(_) => {
                Err(Error::argument("new passphrase", "it is a key, not a passphrase"))
            }
        }
    }
}

/// Reads in a thread of its own, since nothing can wake it; a signal gives the terminal its echo back and leaves the thread
/// to end with the process.
fn ask(text: &str, interrupted: &AtomicBool) -> Option<std::io::Result<String>> {
    let terminal = File::open("/dev/tty").ok()?;
    let before = rustix::termios::tcgetattr(&terminal).ok()?;
    let (sender, receiver) = std::sync::mpsc::channel();
    let text = text.to_owned();
    let reader = std::thread::Builder::new().name("prompt".into());
    reader.spawn(move || drop(sender.send(rpassword::prompt_password(text)))).ok()?;
    loop {
        match receiver.recv_timeout(SIGNAL_POLL) {
            Ok(typed) => return Some(typed),
            Err(RecvTimeoutError::Disconnected) => return None,
            Err(RecvTimeoutError::Timeout) if interrupted.load(Ordering::SeqCst) => {
                let _ = rustix::termios::tcsetattr(&terminal, OptionalActions::Now, &before);
                return None;
            }
            Err(RecvTimeoutError::Timeout) => {}
        }
    }
}

/// Whether a person can be asked: standard error is where they would see it.
pub fn has_terminal() -> bool {
    std::io::stderr().is_terminal()
}

fn is_recovery_key(text: &[u8]) -> bool {
    matches!(Credential::from_text(text), Ok(Credential::Recovery(_)))
}

fn from_command(command: &OsStr) -> Result<Zeroizing<Vec<u8>>> {
    let place = "the password command".to_owned();
    let failed = |reason: String| Error::Credential { place: place.clone(), reason };
    let mut child = Command::new("/bin/sh")
        .arg("-c")
        .arg(command)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|error| failed(error.to_string()))?;
    let mut secret = Zeroizing::new(Vec::new());
    if let Some(stdout) = child.stdout.take() {
        stdout.take(BYTES_MAX + 1).read_to_end(&mut secret).map_err(|error| failed(error.to_string()))?;
    }
    let status = child.wait().map_err(|error| failed(error.to_string()))?;
    if !status.success() {
        return Err(failed(format!("it failed: {status}")));
    }
    bounded(secret, &place)
}

fn bounded(secret: Zeroizing<Vec<u8>>, place: &str) -> Result<Zeroizing<Vec<u8>>> {
    let reason = if secret.len() as u64 > BYTES_MAX {
        "it is too long"
    } else if secret.iter().all(|byte| matches!(byte, b'\n' | b'\r')) {
        "it is empty"
    } else {
        return Ok(secret);
    };
    Err(Error::Credential { place: place.to_owned(), reason: reason.into() })
}
