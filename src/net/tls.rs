//! TLS over the system's CA file: SSL_CERT_FILE, else the usual places.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ring::rand::{SecureRandom as _, SystemRandom};
use rustls::SignatureScheme as Scheme;
use rustls::crypto::ring::{DEFAULT_KX_GROUPS, cipher_suite};
use rustls::crypto::{
    CryptoProvider, GetRandomFailed, KeyProvider, SecureRandom, WebPkiSupportedAlgorithms,
};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::SigningKey;
use rustls::{CertificateError, ClientConfig, RootCertStore, SupportedCipherSuite};
use webpki::ring as by;

/// The CA bundles of Debian, Alpine, Fedora, openSUSE, in this order.
const CA_FILES: &[&str] = &[
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/ssl/cert.pem",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/ca-bundle.pem",
];
/// Those with AES-GCM: every server of TLS 1.3 must have it (RFC 8446, section 9.1), and those of
/// TLS 1.2 do. ChaCha20 comes last in rustls' order, so no server picks it; it would take 50 KB.
static SUITES: [SupportedCipherSuite; 6] = [
    cipher_suite::TLS13_AES_256_GCM_SHA384,
    cipher_suite::TLS13_AES_128_GCM_SHA256,
    cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
    cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
    cipher_suite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
    cipher_suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
];
/// How servers may sign, as rustls has it for ring: naming its whole provider links ChaCha20.
static SIGNATURES: WebPkiSupportedAlgorithms = WebPkiSupportedAlgorithms {
    all: webpki::ALL_VERIFICATION_ALGS,
    mapping: &[
        // TLS 1.2 does not fix the curve.
        (
            Scheme::ECDSA_NISTP384_SHA384,
            &[by::ECDSA_P384_SHA384, by::ECDSA_P256_SHA384],
        ),
        (
            Scheme::ECDSA_NISTP256_SHA256,
            &[by::ECDSA_P256_SHA256, by::ECDSA_P384_SHA256],
        ),
        (Scheme::ED25519, &[by::ED25519]),
        (
            Scheme::RSA_PSS_SHA512,
            &[by::RSA_PSS_2048_8192_SHA512_LEGACY_KEY],
        ),
        (
            Scheme::RSA_PSS_SHA384,
            &[by::RSA_PSS_2048_8192_SHA384_LEGACY_KEY],
        ),
        (
            Scheme::RSA_PSS_SHA256,
            &[by::RSA_PSS_2048_8192_SHA256_LEGACY_KEY],
        ),
        (Scheme::RSA_PKCS1_SHA512, &[by::RSA_PKCS1_2048_8192_SHA512]),
        (Scheme::RSA_PKCS1_SHA384, &[by::RSA_PKCS1_2048_8192_SHA384]),
        (Scheme::RSA_PKCS1_SHA256, &[by::RSA_PKCS1_2048_8192_SHA256]),
    ],
};
/// TLS sessions kept for resumption: Slack, its socket, its files, the model.
const SESSIONS_KEPT: usize = 4;

pub(super) fn ca_file() -> std::result::Result<PathBuf, String> {
    if let Some(path) = std::env::var_os("SSL_CERT_FILE").filter(|path| !path.is_empty()) {
        return Ok(PathBuf::from(path));
    }
    let mut files = CA_FILES.iter().map(PathBuf::from);
    files.find(|path| path.is_file()).ok_or_else(|| {
        "no file of CA certificates on this system: install the package ca-certificates, or name \
         one in SSL_CERT_FILE"
            .to_owned()
    })
}

pub(super) fn config(file: &Path) -> std::result::Result<Arc<ClientConfig>, String> {
    let certificates = CertificateDer::pem_file_iter(file)
        .map_err(|err| format!("cannot read CA certificates from {}: {err}", file.display()))?;
    let mut roots = RootCertStore::empty();
    // One broken or unusual certificate in a system's bundle must not make the others useless.
    roots.add_parsable_certificates(certificates.flatten());
    if roots.is_empty() {
        return Err(format!("no CA certificate in {}", file.display()));
    }
    let provider = CryptoProvider {
        cipher_suites: SUITES.to_vec(),
        kx_groups: DEFAULT_KX_GROUPS.to_vec(),
        signature_verification_algorithms: SIGNATURES,
        secure_random: &System,
        key_provider: &System,
    };
    let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_safe_default_protocol_versions()
        .map_err(|err| format!("cannot set up TLS: {err}"))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.resumption = rustls::client::Resumption::in_memory_sessions(SESSIONS_KEPT);
    Ok(Arc::new(config))
}

/// Random bytes are the system's. We have no keys of our own: the code that loads keys and signs
/// is not linked.
#[derive(Debug)]
struct System;

impl SecureRandom for System {
    fn fill(&self, buf: &mut [u8]) -> std::result::Result<(), GetRandomFailed> {
        let filled = SystemRandom::new().fill(buf);
        filled.map_err(|_| GetRandomFailed)
    }
}

impl KeyProvider for System {
    fn load_private_key(
        &self,
        _: PrivateKeyDer<'static>,
    ) -> std::result::Result<Arc<dyn SigningKey>, rustls::Error> {
        Err(rustls::Error::General(String::from("there are no keys")))
    }
}

/// Adds how to fix the error if it is about a certificate.
pub(super) fn with_hint(err: io::Error) -> io::Error {
    let tls = err.get_ref().and_then(|err| err.downcast_ref());
    let Some(rustls::Error::InvalidCertificate(why)) = tls else {
        return err;
    };
    let hint = match why {
        CertificateError::UnknownIssuer => {
            "if it is self-signed, or a firewall reads TLS on its way, name a file in \
             SSL_CERT_FILE that has the CA's certificate beside those of the system"
        }
        CertificateError::Other(why) if why.to_string().contains("CaUsedAsEndEntity") => {
            "the server shows a CA's certificate as its own; give it one that the CA has signed, \
             and name a file with the CA's in SSL_CERT_FILE"
        }
        CertificateError::Expired
        | CertificateError::ExpiredContext { .. }
        | CertificateError::NotValidYet
        | CertificateError::NotValidYetContext { .. } => "is the clock of this machine right?",
        _ => return err,
    };
    io::Error::other(format!("{err}; {hint}"))
}
