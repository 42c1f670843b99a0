//! TLS for the streaming server: the certificate from files, and again when they change.
//!
//! A new pair that cannot be used keeps the old one in force and is told once; connections that
//! exist are not touched.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{VerifierBuilderError, WebPkiClientVerifier};
use rustls::{RootCertStore, ServerConfig};
use tokio_rustls::TlsAcceptor;

use crate::config;
use crate::error::chain;
use crate::trust::Trust;

/// How often the files are looked at. Whoever renews a certificate does it days before its end.
const LOOK: Duration = Duration::from_secs(5);

/// A certificate chain has a few kilobytes; this only stops a wrong path from eating memory.
const MAX_FILE: u64 = 1 << 20;

/// Why a certificate cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("read {path}")]
    Read {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file holds something else.
    #[error("no PEM in {path}")]
    Pem {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        source: pem::Error,
    },
    /// Certificate and key do not go together, or are of a kind that is not known.
    #[error("use {path}")]
    Pair {
        /// The certificate's file.
        path: PathBuf,
        /// What is wrong.
        source: rustls::Error,
    },
    /// The certificates that clients are checked against.
    #[error("check clients against {path}")]
    ClientCa {
        /// Their file.
        path: PathBuf,
        /// What is wrong.
        source: VerifierBuilderError,
    },
}

/// The files.
#[derive(Clone, Debug)]
struct Files {
    trust: Trust,
    cert: PathBuf,
    key: PathBuf,
    client_ca: Option<PathBuf>,
}

/// What was in the files.
#[derive(Clone, PartialEq, Eq)]
struct Contents {
    cert: Vec<u8>,
    key: Vec<u8>,
    client_ca: Option<Vec<u8>>,
}

/// The TLS side of the server.
pub struct Tls {
    files: Files,
    first: Contents,
    current: ArcSwap<ServerConfig>,
}

impl Tls {
    /// Reads the files that `config` names; none if it names none.
    ///
    /// # Errors
    /// If they cannot be used.
    pub fn load(config: &config::Stream) -> Result<Option<Self>, TlsError> {
        let (Some(cert), Some(key)) = (&config.tls_cert, &config.tls_key) else { return Ok(None) };
        let client_ca = config.tls_client_ca.clone();
        let files = Files { trust: config.trust, cert: cert.clone(), key: key.clone(), client_ca };
        let first = files.read()?;
        let current = ArcSwap::new(files.build(&first)?);
        Ok(Some(Self { files, first, current }))
    }

    /// Does the handshake of one connection with what is in force now.
    pub fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(self.current.load_full())
    }

    /// Looks at the files for as long as the daemon lives.
    pub async fn follow(self: Arc<Self>) {
        let mut seen = Some(self.first.clone());
        loop {
            tokio::time::sleep(LOOK).await;
            let tls = self.clone();
            let last = seen.clone();
            seen = crate::steps::blocking(move || tls.look(last)).await;
        }
    }

    /// Takes what is in the files if it is not what was `seen` last; returns what is there.
    fn look(&self, seen: Option<Contents>) -> Option<Contents> {
        let read = self.files.read();
        let built = match &read {
            Ok(contents) if seen.as_ref() == Some(contents) => return seen,
            Ok(contents) => self.files.build(contents).map(|config| self.current.store(config)),
            // Told once, not at every look.
            Err(_) if seen.is_none() => return None,
            Err(error) => {
                let error = chain(error);
                tracing::warn!(error, "the streaming server keeps its certificate");
                return None;
            }
        };
        match built {
            Ok(()) => tracing::info!(cert = %self.files.cert.display(), "certificate renewed"),
            Err(error) => {
                let error = chain(&error);
                tracing::warn!(error, "the streaming server keeps its certificate");
            }
        }
        read.ok()
    }
}

impl Files {
    fn read(&self) -> Result<Contents, TlsError> {
        Ok(Contents {
            cert: read(&self.cert, self.trust)?,
            key: read(&self.key, self.trust)?,
            client_ca: self.client_ca.as_deref().map(|ca| read(ca, self.trust)).transpose()?,
        })
    }

    fn build(&self, contents: &Contents) -> Result<Arc<ServerConfig>, TlsError> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let pair = |source| TlsError::Pair { path: self.cert.clone(), source };
        let config = ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(pair)?;
        let config = match (&self.client_ca, &contents.client_ca) {
            (Some(path), Some(bytes)) => {
                config.with_client_cert_verifier(verifier(path, bytes, provider)?)
            }
            _ => config.with_no_client_auth(),
        };
        let key = PrivateKeyDer::from_pem_slice(&contents.key)
            .map_err(|source| TlsError::Pem { path: self.key.clone(), source })?;
        let chain = certificates(&self.cert, &contents.cert)?;
        config.with_single_cert(chain, key).map(Arc::new).map_err(pair)
    }
}

fn verifier(
    path: &Path,
    bytes: &[u8],
    provider: Arc<CryptoProvider>,
) -> Result<Arc<dyn rustls::server::danger::ClientCertVerifier>, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path, bytes)? {
        roots
            .add(certificate)
            .map_err(|source| TlsError::Pair { path: path.to_owned(), source })?;
    }
    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
        .build()
        .map_err(|source| TlsError::ClientCa { path: path.to_owned(), source })
}

fn certificates(path: &Path, bytes: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let wrong = |source| TlsError::Pem { path: path.to_owned(), source };
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(bytes).collect();
    let all = all.map_err(wrong)?;
    if all.is_empty() { Err(wrong(pem::Error::NoItemsFound)) } else { Ok(all) }
}

fn read(path: &Path, trust: Trust) -> Result<Vec<u8>, TlsError> {
    use io::Read;
    let failed = |source| TlsError::Read { path: path.to_owned(), source };
    let mut bytes = Vec::new();
    let file = trust.open(path).map_err(failed)?;
    file.take(MAX_FILE).read_to_end(&mut bytes).map_err(failed)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests;
