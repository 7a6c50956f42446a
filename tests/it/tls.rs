//! The server half of TLS over the fixtures in tests/data (made by tests/data/certs.sh).

use std::sync::Arc;

use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// What `SSL_CERT_FILE` must name for mom to trust the fakes.
pub(crate) const CA_FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/ca.pem");

pub(crate) fn server_config() -> Arc<ServerConfig> {
    let data = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data");
    let certificate = CertificateDer::from_pem_file(format!("{data}/server.pem")).unwrap();
    let key = PrivateKeyDer::from_pem_file(format!("{data}/server.key")).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .unwrap();
    Arc::new(config)
}
