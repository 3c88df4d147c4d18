//! Tokens and passwords: the files that hold them, and the header that shows one.
//!
//! Files hold them as they are, so one that others than its owner and group can read is refused. What is shown is compared
//! with each of them in a time that does not depend on how much of it is right.

use std::{fs, os::unix::fs::MetadataExt, path::Path};

use base64::{
    Engine,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use hyper::{HeaderMap, header};
use subtle::ConstantTimeEq;

use super::{super::config::Auth, AccessError};

/// Some clients leave the padding out.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Who holds a token that has no name.
const UNNAMED: &str = "token";

/// Rights that a file of secrets may not have: its group may read it, as systemd's credentials and
/// groups of administrators need it; nobody else may, or write it.
const SHARED: u32 = 0o037;

/// Largest file that is read.
const MOST_BYTES: u64 = 1 << 20;

/// What is known of somebody.
struct Secret {
    name: String,
    secret: String,
}

/// All that is known.
#[derive(Default)]
pub(super) struct Credentials {
    tokens: Vec<Secret>,
    passwords: Vec<Secret>,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (tokens, passwords) = (self.tokens.len(), self.passwords.len());
        write!(f, "{tokens} tokens, {passwords} passwords")
    }
}

/// What a request proves.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Proof {
    /// It shows nothing, or nothing is asked for.
    Nothing,
    /// What it shows is somebody's.
    Name(String),
    /// What it shows is nobody's.
    Wrong,
}

impl Credentials {
    /// Reads the files.
    pub(super) fn read(auth: &Auth) -> Result<Self, AccessError> {
        let mut read = Self::default();
        if let Some(path) = &auth.token_file {
            read.tokens = secrets(path, |line| {
                let (name, token) = line.split_once(':').unwrap_or((UNNAMED, line));
                Some((name, token))
            })?;
        }
        if let Some(path) = &auth.password_file {
            read.passwords = secrets(path, |line| line.split_once(':'))?;
        }
        Ok(read)
    }

    /// What the headers prove.
    pub(super) fn check(&self, headers: &HeaderMap) -> Proof {
        if self.tokens.is_empty() && self.passwords.is_empty() {
            return Proof::Nothing;
        }
        let Some(shown) = headers.get(header::AUTHORIZATION) else {
            return Proof::Nothing;
        };
        let name = shown.to_str().ok().and_then(|shown| self.name_of(shown));
        name.map_or(Proof::Wrong, Proof::Name)
    }

    fn name_of(&self, shown: &str) -> Option<String> {
        let (scheme, rest) = shown.split_once(' ')?;
        let rest = rest.trim();
        if scheme.eq_ignore_ascii_case("bearer") {
            return holder(&self.tokens, |known| is_same(&known.secret, rest));
        }
        if !scheme.eq_ignore_ascii_case("basic") {
            return None;
        }
        let pair = String::from_utf8(BASE64.decode(rest).ok()?).ok()?;
        let (name, password) = pair.split_once(':')?;
        // A token does where a client has room for a password only.
        holder(&self.passwords, |known| {
            known.name == name && is_same(&known.secret, password)
        })
        .or_else(|| {
            holder(&self.tokens, |known| {
                known.name == name && is_same(&known.secret, password)
            })
        })
    }
}

/// Whose it is. All are looked at.
fn holder(known: &[Secret], is_theirs: impl Fn(&Secret) -> bool) -> Option<String> {
    let mut found = None;
    for secret in known {
        if is_theirs(secret) {
            found = Some(secret.name.clone());
        }
    }
    found
}

/// The length of a secret is not kept secret.
fn is_same(known: &str, shown: &str) -> bool {
    known.as_bytes().ct_eq(shown.as_bytes()).into()
}

/// The secrets in a file, a line each, with their holders' names.
fn secrets(
    path: &Path,
    split: impl Fn(&str) -> Option<(&str, &str)>,
) -> Result<Vec<Secret>, AccessError> {
    let unreadable = |source| AccessError::Read {
        path: path.to_owned(),
        source,
    };
    let meta = fs::metadata(path).map_err(unreadable)?;
    if meta.mode() & SHARED != 0 {
        return Err(AccessError::Open {
            path: path.to_owned(),
            mode: meta.mode() & 0o777,
        });
    }
    if meta.len() > MOST_BYTES {
        return Err(AccessError::TooLong {
            path: path.to_owned(),
        });
    }
    let text = fs::read_to_string(path).map_err(unreadable)?;
    let mut found = Vec::new();
    for (number, line) in (1..).zip(text.lines().map(str::trim)) {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let pair = split(line).filter(|(name, secret)| !name.is_empty() && !secret.is_empty());
        let (name, secret) = pair.ok_or_else(|| AccessError::Line {
            path: path.to_owned(),
            line: number,
        })?;
        found.push(Secret {
            name: name.to_owned(),
            secret: secret.to_owned(),
        });
    }
    if found.is_empty() {
        return Err(AccessError::Empty {
            path: path.to_owned(),
        });
    }
    Ok(found)
}
