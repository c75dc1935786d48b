//! TLS as both sides want it: 1.3, raw public keys, each side pinned by the other, nothing resumed.
//!
//! The server's verdict about a client's key comes after the client's handshake has ended: only an answer to the first
//! message tells that it was accepted.

use crate::error::{Error, Result};
use crate::identity::{NodeId, NodeKey};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{AlwaysResolvesClientRawPublicKeys, Resumption};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls13_signature_with_raw_key};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName, SubjectPublicKeyInfoDer, UnixTime};
use rustls::server::AlwaysResolvesServerRawPublicKeys;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::sign::CertifiedKey;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, ServerConfig, SignatureScheme};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// What a connection is for: its ALPN.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Purpose {
    Work,
    Enrol,
}

impl Purpose {
    pub fn alpn(self) -> &'static [u8] {
        match self {
            Purpose::Work => b"nightkeep/1",
            Purpose::Enrol => b"nightkeep-enroll/1",
        }
    }

    pub fn of(alpn: &[u8]) -> Option<Purpose> {
        [Purpose::Work, Purpose::Enrol].into_iter().find(|purpose| purpose.alpn() == alpn)
    }
}

/// Whether a client's key may finish its handshake.
pub type Admission = Arc<dyn Fn(NodeId) -> bool + Send + Sync>;

pub fn server(key: &NodeKey, admission: Admission) -> Result<ServerConfig> {
    let provider = provider();
    let verifier = Arc::new(Admitting { admission, provider: Arc::clone(&provider) });
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(unusable)?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(Arc::new(AlwaysResolvesServerRawPublicKeys::new(certified(key)?)));
    config.alpn_protocols = vec![Purpose::Work.alpn().to_vec(), Purpose::Enrol.alpn().to_vec()];
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    Ok(config)
}

/// The flag tells, after a handshake that failed, whether it was the server's key.
pub fn client(key: &NodeKey, server: NodeId, purpose: Purpose) -> Result<(ClientConfig, Arc<AtomicBool>)> {
    let provider = provider();
    let mismatch = Arc::new(AtomicBool::new(false));
    let verifier = Arc::new(Pinned { server, mismatch: Arc::clone(&mismatch), provider: Arc::clone(&provider) });
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(unusable)?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_client_cert_resolver(Arc::new(AlwaysResolvesClientRawPublicKeys::new(certified(key)?)));
    config.alpn_protocols = vec![purpose.alpn().to_vec()];
    config.resumption = Resumption::disabled();
    config.enable_early_data = false;
    config.enable_sni = false;
    Ok((config, mismatch))
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

fn certified(key: &NodeKey) -> Result<Arc<CertifiedKey>> {
    let signing =
        aws_lc_rs::sign::any_eddsa_type(&PrivatePkcs8KeyDer::from(key.to_pkcs8().to_vec())).map_err(unusable)?;
    Ok(Arc::new(CertifiedKey::new(vec![CertificateDer::from(key.id().to_spki())], signing)))
}

fn unusable(error: rustls::Error) -> Error {
    Error::violation(format!("TLS cannot be set up: {error}"))
}

/// Accepts one server.
struct Pinned {
    server: NodeId,
    mismatch: Arc<AtomicBool>,
    provider: Arc<CryptoProvider>,
}

/// Accepts clients that are let in.
struct Admitting {
    admission: Admission,
    provider: Arc<CryptoProvider>,
}

fn verify(
    provider: &CryptoProvider,
    message: &[u8],
    spki: &CertificateDer<'_>,
    signature: &DigitallySignedStruct,
) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
    let spki = SubjectPublicKeyInfoDer::from(spki.as_ref());
    verify_tls13_signature_with_raw_key(message, &spki, signature, &provider.signature_verification_algorithms)
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> std::result::Result<ServerCertVerified, rustls::Error> {
        if NodeId::from_spki(end_entity) == Some(self.server) {
            return Ok(ServerCertVerified::assertion());
        }
        self.mismatch.store(true, Ordering::SeqCst);
        Err(CertificateError::ApplicationVerificationFailure.into())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::PeerIncompatible::Tls12NotOffered.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        verify(&self.provider, message, cert, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

impl ClientCertVerifier for Admitting {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> std::result::Result<ClientCertVerified, rustls::Error> {
        match NodeId::from_spki(end_entity) {
            Some(client) if (self.admission)(client) => Ok(ClientCertVerified::assertion()),
            _ => Err(CertificateError::ApplicationVerificationFailure.into()),
        }
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::PeerIncompatible::Tls12NotOffered.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        verify(&self.provider, message, cert, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

impl fmt::Debug for Pinned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pinned({})", self.server)
    }
}

impl fmt::Debug for Admitting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Admitting")
    }
}
