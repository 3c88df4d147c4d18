//! Encryption: our certificate, and the names that certificates of clients prove.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::{
    RootCertStore, ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem, pem::PemObject},
    server::WebPkiClientVerifier,
};
use thiserror::Error;
use tokio_rustls::TlsAcceptor;

use super::config::Tls;
use crate::error::{Explain, kernel_words};

/// What is wrong with the files for encryption.
#[derive(Debug, Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("cannot read {}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the kernel says.
        source: io::Error,
    },
    /// A file does not hold what it should.
    #[error("{} holds no {what}", .path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What it should hold.
        what: &'static str,
        /// What is wrong.
        why: String,
    },
    /// The parts do not fit together.
    #[error("the certificate {} cannot be used", .certificate.display())]
    Unusable {
        /// The certificate's file.
        certificate: PathBuf,
        /// Why.
        why: String,
    },
}

impl Explain for TlsError {
    fn why(&self) -> String {
        match self {
            Self::Read { source, .. } => kernel_words(source),
            Self::Content { why, .. } | Self::Unusable { why, .. } => why.clone(),
        }
    }

    fn advice(&self) -> String {
        match self {
            Self::Read { path, .. } => format!("ls -l {}", path.display()),
            Self::Content { path, .. } => format!(
                "head -1 {}, which is -----BEGIN … in a file in PEM",
                path.display()
            ),
            Self::Unusable { certificate, .. } => format!(
                "openssl x509 -in {} -noout -text, and the key that belongs to it",
                certificate.display()
            ),
        }
    }

    fn is_misuse(&self) -> bool {
        true
    }
}

/// What encrypts connections; `None` if nothing does.
///
/// # Errors
/// When a file cannot be read, or the files do not fit together.
pub(super) fn acceptor(tls: &Tls) -> Result<Option<TlsAcceptor>, TlsError> {
    let (Some(certificate), Some(key)) = (&tls.certificate, &tls.key) else {
        return Ok(None);
    };
    let unusable = |why: String| TlsError::Unusable {
        certificate: certificate.clone(),
        why,
    };
    let provider = Arc::new(ring::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| unusable(error.to_string()))?;
    let builder = match &tls.client_ca {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let mut roots = RootCertStore::empty();
            for root in certificates(path)? {
                roots
                    .add(root)
                    .map_err(|error| content(path, "certificate", error.to_string()))?;
            }
            // Whoever has none may have a token.
            let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider)
                .allow_unauthenticated()
                .build()
                .map_err(|error| content(path, "certificate", error.to_string()))?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let secret =
        PrivateKeyDer::from_pem_file(key).map_err(|error| of_pem(key, "private key", error))?;
    let mut config = builder
        .with_single_cert(certificates(certificate)?, secret)
        .map_err(|error| unusable(error.to_string()))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Some(TlsAcceptor::from(Arc::new(config))))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let trouble = |error| of_pem(path, "certificate", error);
    let read = CertificateDer::pem_file_iter(path).map_err(trouble)?;
    let found = read.collect::<Result<Vec<_>, _>>().map_err(trouble)?;
    if found.is_empty() {
        return Err(trouble(pem::Error::NoItemsFound));
    }
    Ok(found)
}

fn of_pem(path: &Path, what: &'static str, error: pem::Error) -> TlsError {
    match error {
        pem::Error::Io(source) => TlsError::Read {
            path: path.to_owned(),
            source,
        },
        pem::Error::NoItemsFound => content(path, what, "it has no such section".to_owned()),
        other => content(path, what, other.to_string()),
    }
}

fn content(path: &Path, what: &'static str, why: String) -> TlsError {
    TlsError::Content {
        path: path.to_owned(),
        what,
        why,
    }
}
