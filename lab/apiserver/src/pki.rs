//! The certificate authority of a cluster, and the certificates it signs.
//!
//! The authority and the key that signs tokens are kept in the data directory (0600), so that kubeconfigs and
//! mounted tokens stay valid when the server is started again.

use std::fs;
use std::io;
use std::io::Write as _;
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType, date_time_ymd,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

/// Why keys or certificates could not be made, read or kept.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// A file could not be read or written.
    #[error("{path}")]
    File {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A certificate or key could not be made or understood.
    #[error("certificate")]
    Certificate(#[from] rcgen::Error),
    /// rustls does not accept what was made.
    #[error("TLS configuration")]
    Tls(#[from] rustls::Error),
    /// rustls does not accept the authority for client certificates.
    #[error("client certificate verifier")]
    Verifier(#[from] rustls::server::VerifierBuilderError),
    /// The token key is not usable.
    #[error("token key")]
    TokenKey(#[from] jsonwebtoken::errors::Error),
}

/// A certificate and its key, both PEM.
#[derive(Clone, Debug)]
pub struct ClientCertificate {
    /// Certificate.
    pub certificate: String,
    /// Private key (PKCS #8).
    pub key: String,
}

/// The authority, and everything that was derived from it.
pub(crate) struct Credentials {
    ca_pem: String,
    ca_der: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
    /// PKCS #8 PEM of the key that signs tokens, and its public half.
    pub(crate) token_key: String,
    pub(crate) token_public_key: String,
}

impl Credentials {
    /// Reads the authority of a data directory, or makes a new one there.
    pub(crate) fn open(directory: &Path, cluster: &str) -> Result<Self, PkiError> {
        fs::create_dir_all(directory).map_err(|source| PkiError::File {
            path: directory.into(),
            source,
        })?;
        let ca_key = key_file(&directory.join("ca.key"))?;
        let path = directory.join("ca.crt");
        let ca_pem = match read(&path)? {
            Some(pem) => pem,
            None => {
                let pem = authority(cluster)?.self_signed(&ca_key)?.pem();
                write_private(&path, &pem)?;
                pem
            }
        };
        let token_key = key_file(&directory.join("sa.key"))?;
        let ca_der = rustls::pki_types::pem::PemObject::from_pem_slice(ca_pem.as_bytes())
            .map_err(|_| rcgen::Error::CouldNotParseCertificate)?;
        let issuer = Issuer::from_ca_cert_pem(&ca_pem, ca_key)?;
        Ok(Self {
            ca_pem,
            ca_der,
            issuer,
            token_public_key: token_key.public_key_pem(),
            token_key: token_key.serialize_pem(),
        })
    }

    pub(crate) fn ca_pem(&self) -> &str {
        &self.ca_pem
    }

    /// A client certificate: `name` is the user, `groups` its groups.
    pub(crate) fn client(&self, name: &str, groups: &[&str]) -> Result<ClientCertificate, PkiError> {
        let key = KeyPair::generate()?;
        let mut params = leaf(name);
        for group in groups {
            params.distinguished_name.push(DnType::OrganizationName, *group);
        }
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let certificate = params.signed_by(&key, &self.issuer)?;
        Ok(ClientCertificate {
            certificate: certificate.pem(),
            key: key.serialize_pem(),
        })
    }

    /// The TLS side of the server: its certificate, and client certificates accepted when they are ours.
    pub(crate) fn server_config(&self, names: &[String]) -> Result<Arc<rustls::ServerConfig>, PkiError> {
        let key = KeyPair::generate()?;
        let mut params = leaf("kube-apiserver");
        for name in names {
            params.subject_alt_names.push(match name.parse::<IpAddr>() {
                Ok(ip) => SanType::IpAddress(ip),
                Err(_) => SanType::DnsName(name.as_str().try_into()?),
            });
        }
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let certificate = params.signed_by(&key, &self.issuer)?;
        let mut roots = rustls::RootCertStore::empty();
        roots.add(self.ca_der.clone())?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier =
            rustls::server::WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
                .allow_unauthenticated()
                .build()?;
        let mut config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_client_cert_verifier(verifier)
            .with_single_cert(
                vec![certificate.der().clone()],
                PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der())),
            )?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }
}

fn validity(params: &mut CertificateParams) {
    params.not_before = date_time_ymd(2024, 1, 1);
    params.not_after = date_time_ymd(2054, 1, 1);
}

fn authority(cluster: &str) -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.distinguished_name = rcgen::DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::CommonName, format!("seta-lab-{cluster}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![
        KeyUsagePurpose::KeyCertSign,
        KeyUsagePurpose::DigitalSignature,
        KeyUsagePurpose::CrlSign,
    ];
    validity(&mut params);
    Ok(params)
}

fn leaf(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.key_usages = vec![
        KeyUsagePurpose::DigitalSignature,
        KeyUsagePurpose::KeyEncipherment,
    ];
    validity(&mut params);
    params
}

fn read(path: &Path) -> Result<Option<String>, PkiError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(PkiError::File {
            path: path.into(),
            source,
        }),
    }
}

fn key_file(path: &Path) -> Result<KeyPair, PkiError> {
    if let Some(pem) = read(path)? {
        return Ok(KeyPair::from_pem(&pem)?);
    }
    let key = KeyPair::generate()?;
    write_private(path, &key.serialize_pem())?;
    Ok(key)
}

/// Writes a file that only its owner reads, whole or not at all.
pub(crate) fn write_private(path: &Path, text: &str) -> Result<(), PkiError> {
    let fail = |source| PkiError::File {
        path: path.into(),
        source,
    };
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(format!(".{}.tmp", std::process::id()));
    let temporary = PathBuf::from(temporary);
    let write = || {
        let _ = fs::remove_file(&temporary);
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&temporary)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    };
    write().map_err(|e| {
        let _ = fs::remove_file(&temporary);
        fail(e)
    })
}
