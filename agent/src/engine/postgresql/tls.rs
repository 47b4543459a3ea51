//! TLS to the server, as demanded: by our own client and, through files, by libpq in the tools.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use holdfast_crds::TlsMode;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_cert_signed_by_trust_anchor};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

use super::error::DatabaseError;

/// Where certificates lie. All are read anew for each connection: they rotate.
#[derive(Debug, Clone)]
pub struct TlsFiles {
    /// What is demanded.
    pub mode: TlsMode,
    /// CA certificates (PEM) that the server's certificate must come from.
    pub roots: PathBuf,
    /// Certificate and key (PEM) of the client.
    pub client: Option<(PathBuf, PathBuf)>,
}

fn unreadable(what: &'static str, path: &Path, problem: &dyn std::fmt::Display) -> DatabaseError {
    DatabaseError::ReadFile {
        what,
        path: path.to_owned(),
        problem: problem.to_string(),
    }
}

fn certificates(what: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, DatabaseError> {
    let certificates = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| unreadable(what, path, &error))?;
    if certificates.is_empty() {
        return Err(unreadable(
            what,
            path,
            &"it holds no certificate in PEM form (-----BEGIN CERTIFICATE-----)",
        ));
    }
    Ok(certificates)
}

impl TlsFiles {
    /// The client's configuration; `None` for connections without TLS.
    pub(super) fn client_config(&self) -> Result<Option<ClientConfig>, DatabaseError> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|error| DatabaseError::UseSetting {
                field: "tls",
                problem: error.to_string(),
            })?;
        let verifier: Arc<dyn ServerCertVerifier> = match self.mode {
            TlsMode::Disable => return Ok(None),
            TlsMode::Require => Arc::new(AnyCertificate {
                provider: Arc::clone(&provider),
                roots: None,
            }),
            TlsMode::VerifyCa => Arc::new(AnyCertificate {
                provider: Arc::clone(&provider),
                roots: Some(self.roots()?),
            }),
            TlsMode::VerifyFull => WebPkiServerVerifier::builder_with_provider(Arc::new(self.roots()?), provider)
                .build()
                .map_err(|error| unreadable("the database's CA certificates", &self.roots, &error))?,
        };
        let builder = builder.dangerous().with_custom_certificate_verifier(verifier);
        let config = match &self.client {
            None => builder.with_no_client_auth(),
            Some((certificate, key)) => {
                let chain = certificates("the client certificate", certificate)?;
                let key_der = PrivateKeyDer::from_pem_file(key).map_err(|error| unreadable("the client certificate's key", key, &error))?;
                builder
                    .with_client_auth_cert(chain, key_der)
                    .map_err(|error| unreadable("the client certificate", certificate, &error))?
            }
        };
        Ok(Some(config))
    }

    fn roots(&self) -> Result<RootCertStore, DatabaseError> {
        let mut roots = RootCertStore::empty();
        let (added, _) = roots.add_parsable_certificates(certificates("the database's CA certificates", &self.roots)?);
        if added == 0 {
            return Err(unreadable(
                "the database's CA certificates",
                &self.roots,
                &"none of its certificates can be used",
            ));
        }
        Ok(roots)
    }

    /// libpq's variables for the same demands. `key` is where a copy of the client's key lies that only we can read, which libpq wants.
    pub(super) fn variables(&self, key: Option<&Path>) -> Vec<(&'static str, String)> {
        let mode = match self.mode {
            TlsMode::Disable => "disable",
            TlsMode::Require => "require",
            TlsMode::VerifyCa => "verify-ca",
            TlsMode::VerifyFull => "verify-full",
        };
        // With `require`, libpq would verify against a CA file if it found one.
        let roots = match self.mode {
            TlsMode::Disable | TlsMode::Require => "/nonexistent/root.crt".to_owned(),
            TlsMode::VerifyCa | TlsMode::VerifyFull => self.roots.display().to_string(),
        };
        let mut variables = vec![
            ("PGSSLMODE", mode.to_owned()),
            ("PGSSLROOTCERT", roots),
            ("PGGSSENCMODE", "disable".to_owned()),
        ];
        match (&self.client, key) {
            (Some((certificate, _)), Some(key)) => {
                variables.push(("PGSSLCERT", certificate.display().to_string()));
                variables.push(("PGSSLKEY", key.display().to_string()));
            }
            _ => variables.push(("PGSSLCERT", "/nonexistent/client.crt".to_owned())),
        }
        variables
    }
}

/// `Require` and `VerifyCa`: no demand on the certificate's name, and without roots none on who signed it. That the server has the
/// certificate's key is checked in any case.
#[derive(Debug)]
struct AnyCertificate {
    provider: Arc<CryptoProvider>,
    roots: Option<RootCertStore>,
}

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if let Some(roots) = &self.roots {
            let certificate = ParsedCertificate::try_from(certificate)?;
            let algorithms = self.provider.signature_verification_algorithms.all;
            verify_server_cert_signed_by_trust_anchor(&certificate, roots, intermediates, now, algorithms)?;
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
