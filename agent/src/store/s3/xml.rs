//! The XML that S3 speaks.

use super::answer::refusal;
use crate::store::{
    backend::{ObjectMeta, ObjectVersion, OpenUpload, Page, PieceReceipt, Retained, Versioning},
    digest,
    error::StoreError,
};
use holdfast_crds::LockMode;
use http::StatusCode;
use jiff::Timestamp;
use serde::{Deserialize, de::DeserializeOwned};
use std::fmt::Write;

fn parse<T: DeserializeOwned>(call: &'static str, text: &str) -> Result<T, StoreError> {
    quick_xml::de::from_str(text).map_err(|error| StoreError::Malformed {
        call,
        problem: error.to_string(),
    })
}

/// Code and message of an error document; `None` if it is something else.
pub(super) fn error(text: &str) -> Option<(String, String)> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Error {
        code: String,
        #[serde(default)]
        message: String,
    }
    // STS wraps it once more.
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct ErrorResponse {
        error: Error,
    }
    if root(text)? == "ErrorResponse" {
        let ErrorResponse { error } = quick_xml::de::from_str(text).ok()?;
        return Some((error.code, error.message));
    }
    let Error { code, message } = (root(text)? == "Error").then(|| quick_xml::de::from_str(text).ok())??;
    Some((code, message))
}

/// The name of the first element.
fn root(text: &str) -> Option<&str> {
    let mut rest = text;
    loop {
        rest = rest.get(rest.find('<')? + 1..)?;
        if !rest.starts_with(['?', '!']) {
            let name = rest.split(|c: char| c.is_whitespace() || c == '>' || c == '/').next()?;
            return Some(name.rsplit(':').next().unwrap_or(name));
        }
    }
}

pub(super) fn upload_id(text: &str) -> Result<String, StoreError> {
    #[derive(Deserialize)]
    struct InitiateMultipartUploadResult {
        #[serde(rename = "UploadId")]
        id: String,
    }
    let InitiateMultipartUploadResult { id } = parse("start upload", text)?;
    if id.is_empty() {
        return Err(StoreError::Malformed {
            call: "start upload",
            problem: "UploadId is empty".to_owned(),
        });
    }
    Ok(id)
}

pub(super) fn completion(pieces: &[PieceReceipt]) -> String {
    let mut text = String::from(r#"<CompleteMultipartUpload xmlns="http://s3.amazonaws.com/doc/2006-03-01/">"#);
    for piece in pieces {
        let (number, sha256) = (piece.number, digest::to_base64(&piece.sha256));
        let tag = piece.tag.replace('&', "&amp;").replace('<', "&lt;").replace('"', "&quot;");
        // Writing to a String does not fail.
        let _ = write!(
            text,
            "<Part><PartNumber>{number}</PartNumber><ETag>{tag}</ETag><ChecksumSHA256>{sha256}</ChecksumSHA256></Part>"
        );
    }
    text.push_str("</CompleteMultipartUpload>");
    text
}

/// Whether a complete that was answered with 200 was a success.
pub(super) fn completed(path: &str, text: &str) -> Result<(), StoreError> {
    const CALL: &str = "complete upload";
    match (root(text), error(text)) {
        (Some("CompleteMultipartUploadResult"), _) => Ok(()),
        (_, Some((code, message))) => Err(refusal(CALL, path, StatusCode::OK, code, message)),
        _ => Err(StoreError::Malformed {
            call: CALL,
            problem: "neither a result nor an error".to_owned(),
        }),
    }
}

pub(super) fn uploads(text: &str) -> Result<Page<OpenUpload>, StoreError> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct ListMultipartUploadsResult {
        #[serde(default)]
        is_truncated: bool,
        #[serde(default)]
        next_key_marker: Option<String>,
        #[serde(default)]
        next_upload_id_marker: Option<String>,
        #[serde(default)]
        encoding_type: Option<String>,
        #[serde(default)]
        upload: Vec<Upload>,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Upload {
        key: String,
        #[serde(rename = "UploadId")]
        id: String,
        #[serde(default)]
        initiated: Option<String>,
    }
    const CALL: &str = "list uploads";
    let list: ListMultipartUploadsResult = parse(CALL, text)?;
    let encoded = list.encoding_type.as_deref() == Some("url");
    let next = if list.is_truncated {
        let key = list.next_key_marker.filter(|key| !key.is_empty());
        let key = key.ok_or_else(|| StoreError::Malformed {
            call: CALL,
            problem: "there is more, but no NextKeyMarker".to_owned(),
        })?;
        Some(format!(
            "{}\n{}",
            decode(CALL, &key, encoded)?,
            list.next_upload_id_marker.unwrap_or_default()
        ))
    } else {
        None
    };
    let item = |upload: Upload| {
        let started = upload.initiated.as_deref().and_then(|time| time.parse::<Timestamp>().ok());
        Ok(OpenUpload {
            path: decode(CALL, &upload.key, encoded)?,
            id: upload.id,
            started,
        })
    };
    Ok(Page {
        items: list.upload.into_iter().map(item).collect::<Result<_, StoreError>>()?,
        next,
    })
}

pub(super) fn objects(text: &str) -> Result<Page<ObjectMeta>, StoreError> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct ListBucketResult {
        #[serde(default)]
        is_truncated: bool,
        #[serde(default)]
        next_continuation_token: Option<String>,
        #[serde(default)]
        key_count: Option<usize>,
        #[serde(default)]
        encoding_type: Option<String>,
        #[serde(default)]
        contents: Vec<Contents>,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Contents {
        key: String,
        size: u64,
        #[serde(default)]
        last_modified: Option<String>,
    }
    const CALL: &str = "list";
    let malformed = |problem: String| StoreError::Malformed { call: CALL, problem };
    let list: ListBucketResult = parse(CALL, text)?;
    let encoded = list.encoding_type.as_deref() == Some("url");
    if let Some(count) = list.key_count
        && count != list.contents.len()
    {
        return Err(malformed(format!("KeyCount is {count}, it lists {}", list.contents.len())));
    }
    let next = match (list.is_truncated, list.next_continuation_token.filter(|token| !token.is_empty())) {
        (true, None) => return Err(malformed("there is more, but no NextContinuationToken".to_owned())),
        (true, token) => token,
        (false, _) => None,
    };
    let item = |item: Contents| {
        let modified = item.last_modified.as_deref().and_then(|time| time.parse::<Timestamp>().ok());
        Ok(ObjectMeta {
            path: decode(CALL, &item.key, encoded)?,
            size: item.size,
            checksum: None,
            version: None,
            modified,
        })
    };
    Ok(Page {
        items: list.contents.into_iter().map(item).collect::<Result<_, StoreError>>()?,
        next,
    })
}

pub(super) fn versions(text: &str) -> Result<Page<ObjectVersion>, StoreError> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct ListVersionsResult {
        #[serde(default)]
        is_truncated: bool,
        #[serde(default)]
        next_key_marker: Option<String>,
        #[serde(default)]
        next_version_id_marker: Option<String>,
        #[serde(default)]
        encoding_type: Option<String>,
        #[serde(default)]
        version: Vec<Entry>,
        #[serde(default)]
        delete_marker: Vec<Entry>,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Entry {
        key: String,
        #[serde(default)]
        version_id: Option<String>,
        #[serde(default)]
        is_latest: bool,
        /// A delete marker has none.
        #[serde(default)]
        size: Option<u64>,
        #[serde(default)]
        last_modified: Option<String>,
    }
    const CALL: &str = "list versions";
    let malformed = |problem: String| StoreError::Malformed { call: CALL, problem };
    let list: ListVersionsResult = parse(CALL, text)?;
    let encoded = list.encoding_type.as_deref() == Some("url");
    let next = if list.is_truncated {
        let key = list.next_key_marker.filter(|key| !key.is_empty());
        let key = key.ok_or_else(|| malformed("there is more, but no NextKeyMarker".to_owned()))?;
        Some(format!(
            "{}\n{}",
            decode(CALL, &key, encoded)?,
            list.next_version_id_marker.unwrap_or_default()
        ))
    } else {
        None
    };
    let item = |entry: Entry, is_delete_marker: bool| {
        let path = decode(CALL, &entry.key, encoded)?;
        let size = match entry.size {
            Some(size) => size,
            None if is_delete_marker => 0,
            None => return Err(malformed(format!("{path:?} has no Size"))),
        };
        Ok(ObjectVersion {
            path,
            version: entry.version_id.filter(|version| !version.is_empty() && version != "null"),
            is_latest: entry.is_latest,
            is_delete_marker,
            size,
            modified: entry.last_modified.as_deref().and_then(|time| time.parse::<Timestamp>().ok()),
        })
    };
    let versions = list.version.into_iter().map(|entry| item(entry, false));
    let markers = list.delete_marker.into_iter().map(|entry| item(entry, true));
    let mut items = versions.chain(markers).collect::<Result<Vec<_>, StoreError>>()?;
    // Versions and markers stand in two lists: they are put together again, newest first.
    items.sort_by(|a, b| {
        let newest_first = b.is_latest.cmp(&a.is_latest).then(b.modified.cmp(&a.modified));
        a.path.cmp(&b.path).then(newest_first)
    });
    Ok(Page { items, next })
}

/// Whether the bucket has Object Lock.
pub(super) fn object_lock(text: &str) -> Result<bool, StoreError> {
    #[derive(Deserialize)]
    struct ObjectLockConfiguration {
        #[serde(rename = "ObjectLockEnabled", default)]
        enabled: Option<String>,
    }
    let ObjectLockConfiguration { enabled } = parse("read Object Lock configuration", text)?;
    Ok(enabled.as_deref() == Some("Enabled"))
}

pub(super) fn retention(text: &str) -> Result<Option<Retained>, StoreError> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Retention {
        #[serde(default)]
        mode: Option<String>,
        #[serde(default)]
        retain_until_date: Option<String>,
    }
    let malformed = |problem: String| StoreError::Malformed {
        call: "read retention",
        problem,
    };
    let Retention { mode, retain_until_date } = parse("read retention", text)?;
    let filled = |text: Option<String>| text.filter(|text| !text.is_empty());
    match (filled(mode), filled(retain_until_date)) {
        (None, None) => Ok(None),
        (Some(mode), Some(until)) => Ok(Some(Retained {
            mode: match mode.as_str() {
                "GOVERNANCE" => LockMode::Governance,
                "COMPLIANCE" => LockMode::Compliance,
                other => return Err(malformed(format!("Mode is {other:?}"))),
            },
            until: until.parse().map_err(|_| malformed(format!("RetainUntilDate is {until:?}")))?,
        })),
        (mode, until) => Err(malformed(format!("Mode is {mode:?} and RetainUntilDate {until:?}"))),
    }
}

pub(super) fn retention_of(Retained { mode, until }: Retained) -> String {
    format!(
        r#"<Retention xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Mode>{}</Mode><RetainUntilDate>{}</RetainUntilDate></Retention>"#,
        mode_name(mode),
        date(until)
    )
}

pub(super) fn mode_name(mode: LockMode) -> &'static str {
    match mode {
        LockMode::Governance => "GOVERNANCE",
        LockMode::Compliance => "COMPLIANCE",
    }
}

/// `2026-11-20T22:10:00Z`.
pub(super) fn date(at: Timestamp) -> String {
    format!("{at:.0}")
}

pub(super) fn legal_hold(text: &str) -> Result<bool, StoreError> {
    #[derive(Deserialize)]
    struct LegalHold {
        #[serde(rename = "Status", default)]
        status: Option<String>,
    }
    let LegalHold { status } = parse("read legal hold", text)?;
    match status.as_deref() {
        Some("ON") => Ok(true),
        Some("OFF" | "") | None => Ok(false),
        Some(other) => Err(StoreError::Malformed {
            call: "read legal hold",
            problem: format!("Status is {other:?}"),
        }),
    }
}

pub(super) fn legal_hold_of(on: bool) -> String {
    let status = if on { "ON" } else { "OFF" };
    format!(r#"<LegalHold xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Status>{status}</Status></LegalHold>"#)
}

pub(super) fn versioning(text: &str) -> Result<Versioning, StoreError> {
    #[derive(Deserialize)]
    struct VersioningConfiguration {
        #[serde(rename = "Status", default)]
        status: Option<String>,
    }
    let VersioningConfiguration { status } = parse("read versioning", text)?;
    Ok(match status.as_deref() {
        Some("Enabled") => Versioning::Enabled,
        Some("Suspended") => Versioning::Suspended,
        _ => Versioning::Disabled,
    })
}

/// What STS hands out.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Session {
    pub access_key_id: String,
    pub secret_access_key: String,
    #[serde(rename = "SessionToken")]
    pub token: String,
    pub expiration: Timestamp,
}

pub(super) fn session(text: &str) -> Result<Session, StoreError> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct AssumeRoleWithWebIdentityResponse {
        assume_role_with_web_identity_result: Answer,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Answer {
        credentials: Session,
    }
    // The parser's words could quote what it read.
    quick_xml::de::from_str::<AssumeRoleWithWebIdentityResponse>(text)
        .map(|response| response.assume_role_with_web_identity_result.credentials)
        .map_err(|_| StoreError::Malformed {
            call: "assume role",
            problem: "it holds no complete credentials".to_owned(),
        })
}

fn decode(call: &'static str, text: &str, encoded: bool) -> Result<String, StoreError> {
    if !encoded {
        return Ok(text.to_owned());
    }
    let malformed = || StoreError::Malformed {
        call,
        problem: format!("{text:?} is not URL-encoded"),
    };
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        out.push(match byte {
            b'%' => {
                let mut digit = || char::from(bytes.next()?).to_digit(16);
                let (high, low) = digit().zip(digit()).ok_or_else(malformed)?;
                u8::try_from(high << 4 | low).map_err(|_| malformed())?
            }
            b'+' => b' ',
            other => other,
        });
    }
    String::from_utf8(out).map_err(|_| malformed())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_found_in_any_wrapping() {
        let plain = "<?xml version=\"1.0\"?>\n<Error><Code>SlowDown</Code><Message>a &amp; b</Message></Error>";
        assert_eq!(error(plain), Some(("SlowDown".to_owned(), "a & b".to_owned())));
        let sts = "<ErrorResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><Error><Type>Sender</Type><Code>ExpiredTokenException</Code><Message>m</Message></Error></ErrorResponse>";
        assert_eq!(error(sts), Some(("ExpiredTokenException".to_owned(), "m".to_owned())));
        for other in [
            "",
            "<html>",
            "no xml",
            "<ListBucketResult><Code>x</Code></ListBucketResult>",
            "<Error>",
        ] {
            assert_eq!(error(other), None, "{other}");
        }
    }

    #[test]
    fn a_complete_is_judged_by_its_body() {
        assert!(
            completed(
                "p",
                "<?xml version='1.0'?><CompleteMultipartUploadResult><ETag>x</ETag></CompleteMultipartUploadResult>"
            )
            .is_ok()
        );
        let inner = completed("p", "  <Error><Code>InternalError</Code><Message>try again</Message></Error>");
        assert!(matches!(inner, Err(StoreError::Busy { status: 200, .. })), "{inner:?}");
        assert!(matches!(
            completed("p", "<Error><Code>InvalidPart</Code></Error>"),
            Err(StoreError::Refused { .. })
        ));
        assert!(matches!(completed("p", ""), Err(StoreError::Malformed { .. })));
    }

    #[test]
    fn listings_are_decoded_and_must_add_up() {
        let page = |inner: &str| {
            objects(&format!(
                "<ListBucketResult><EncodingType>url</EncodingType>{inner}</ListBucketResult>"
            ))
        };
        let one = "<Contents><Key>a%2Fb+c</Key><Size>7</Size><LastModified>2026-11-20T22:10:00.000Z</LastModified></Contents>";
        let good = page(&format!(
            "<KeyCount>1</KeyCount><IsTruncated>true</IsTruncated><NextContinuationToken>t</NextContinuationToken>{one}"
        ))
        .unwrap();
        assert_eq!(
            (good.items[0].path.as_str(), good.items[0].size, good.next.as_deref()),
            ("a/b c", 7, Some("t"))
        );
        assert!(page(&format!("<KeyCount>2</KeyCount>{one}")).is_err());
        assert!(page("<IsTruncated>true</IsTruncated>").is_err());
        assert!(page("<Contents><Key>%zz</Key><Size>1</Size></Contents>").is_err());
        assert!(page("<Contents><Key>a</Key></Contents>").is_err());
        assert_eq!(page("").unwrap().items, []);
    }

    #[test]
    fn broken_credentials_are_not_quoted() {
        let error = session("<AssumeRoleWithWebIdentityResponse><AssumeRoleWithWebIdentityResult><Credentials><SecretAccessKey>s3cr3t</SecretAccessKey></Credentials></AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>").err().unwrap();
        assert!(!error.to_string().contains("s3cr3t"));
    }
}
