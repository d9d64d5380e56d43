//! Which permissions a store needs, as a policy, and whether these credentials have them, by doing each thing once.
//!
//! Nobody's objects are touched: everything happens on keys below `probes/` that have a fresh UUID, and is removed again. The
//! questions about what is allowed but not needed change nothing: a write that cannot happen (its condition does not hold),
//! and listings.

use super::{Moving, S3};
use crate::{Body, Condition, Error, Objects as _, Result, Store};
use aws_sdk_s3::{error::SdkError, primitives::ByteStream as Sending};
use bytes::Bytes;

/// One permission, and whether it is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Permission {
    /// What IAM calls it, for example `s3:GetObject`.
    pub action: &'static str,
    /// What it is for; or, of one that is not needed, what it lets these credentials do.
    pub why: &'static str,
    /// Whether the store needs it. One that is not needed is information: less would suffice.
    pub needed: bool,
    /// Whether it is not needed in itself, but comes with one that is: no policy grants that one alone.
    pub unavoidable: bool,
    /// Whether it is there.
    pub allowed: bool,
    /// What was tried and what came of it.
    pub detail: String,
}

/// The permissions that suffice, as an IAM policy for the credentials of a store.
///
/// Listing is bound to the prefix, and allowed to a request that has none: whether an object is absent (404) or forbidden
/// (403) is decided by the permission to list, for a question that has no prefix. Two statements say so, because not every
/// server knows the conditions that end in `IfExists`. Listing uploads knows no prefix at all.
///
/// So the *names* of all objects of the bucket, not their content, can be seen with these credentials: a listing that has no
/// prefix is the same to a policy as the question whether an object is there. Who must not see them needs another bucket.
pub fn least_policy(bucket: &str, prefix: &str) -> String {
    let prefix = prefix.trim_matches('/');
    let resource = format!("arn:aws:s3:::{bucket}");
    let list = |sid: &str, condition: serde_json::Value| {
        let action = ["s3:ListBucket"];
        let mut statement =
            serde_json::json!({ "Sid": sid, "Effect": "Allow", "Action": action, "Resource": resource });
        if !condition.is_null() {
            statement["Condition"] = condition;
        }
        statement
    };
    let (below, mut statements) = match prefix {
        "" => ("*".to_owned(), vec![list("List", serde_json::Value::Null)]),
        prefix => {
            let below = format!("{prefix}/*");
            let inside = list("ListPrefix", serde_json::json!({ "StringLike": { "s3:prefix": [below] } }));
            let absent = list("TellAbsent", serde_json::json!({ "Null": { "s3:prefix": "true" } }));
            (below, vec![inside, absent])
        }
    };
    statements.push(serde_json::json!({
        "Sid": "Uploads",
        "Effect": "Allow",
        "Action": ["s3:ListBucketMultipartUploads"],
        "Resource": resource,
    }));
    statements.push(serde_json::json!({
        "Sid": "Objects",
        "Effect": "Allow",
        "Action": ["s3:GetObject", "s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload"],
        "Resource": format!("{resource}/{below}"),
    }));
    format!("{:#}\n", serde_json::json!({ "Version": "2012-10-17", "Statement": statements }))
}

impl Store {
    /// Tries each permission of [`least_policy`] on probe keys, in the order in which they are needed; and those that would be
    /// too many. A store that has no permissions of its own (in memory) has an empty list.
    ///
    /// # Errors
    /// What is no question of permissions: a server that is not there, credentials that it does not know, no such bucket.
    pub async fn check_permissions(&self) -> Result<Vec<Permission>> {
        match &self.s3 {
            Some(s3) => s3.check_permissions().await,
            None => Ok(Vec::new()),
        }
    }
}

/// Whether the answer was that this is not permitted, whoever asks. Refused credentials are another matter.
fn denied(error: &Error) -> bool {
    matches!(error, Error::Unavailable { what, .. } if what.starts_with(super::failure::NOT_PERMITTED))
}

/// What came of one try: done, or denied in words. Any other failure ends the check.
fn verdict<T>(result: Result<T>) -> Result<std::result::Result<T, String>> {
    match result {
        Ok(value) => Ok(Ok(value)),
        Err(error) if denied(&error) => Ok(Err(error.to_string())),
        Err(error) => Err(error),
    }
}

impl S3 {
    async fn check_permissions(&self) -> Result<Vec<Permission>> {
        let key = format!("probes/{}", uuid::Uuid::new_v4());
        let mut found = match self.needed(&key).await {
            Ok(found) => found,
            Err(error) => {
                // What was to remove the probe was not come to. What failed before may fail again: it is not asked for ever.
                let _ = tokio::time::timeout(self.attempt(0), self.delete(&key)).await;
                return Err(error);
            }
        };
        if !self.local {
            // It asks what need not be answered.
            let _ = tokio::time::timeout(self.attempt(0), self.too_much(&mut found)).await;
        }
        Ok(found)
    }

    async fn needed(&self, key: &str) -> Result<Vec<Permission>> {
        let put = self.may_put(key).await?;
        let get = self.may_get(key).await?;
        let mut found = vec![self.may_list(get.allowed).await?];
        let (abort, uploads) = (self.may_abort(key).await?, self.may_list_uploads(key).await?);
        let delete = self.may_delete(key, put.allowed).await?;
        found.extend([get, put, delete, abort, uploads]);
        Ok(found)
    }

    async fn may_list(&self, may_get: bool) -> Result<Permission> {
        let why = "to find what is stored, and to learn that an object is not there";
        let needed = |allowed, detail| Permission {
            action: "s3:ListBucket",
            why,
            needed: true,
            unavoidable: false,
            allowed,
            detail,
        };
        if let Err(detail) = verdict(self.list("probes/", None).await)? {
            return Ok(needed(false, detail));
        }
        if !may_get {
            return Ok(needed(true, "listed probes/".to_owned()));
        }
        // Without the permission, or bound to a prefix that this question does not have, absent is answered as forbidden.
        let absent = format!("probes/{}", uuid::Uuid::new_v4());
        Ok(match verdict(self.head(&absent).await)? {
            Ok(_) => needed(true, "listed probes/, and an absent object is absent".to_owned()),
            Err(detail) => needed(false, format!("an absent object is answered as forbidden: {detail}")),
        })
    }

    async fn may_put(&self, key: &str) -> Result<Permission> {
        let why = "to store content, to create and to swap references, and to upload in parts";
        let needed = |allowed, detail| Permission {
            action: "s3:PutObject",
            why,
            needed: true,
            unavoidable: false,
            allowed,
            detail,
        };
        let bytes = |text: &'static str| Body::Bytes(Bytes::from_static(text.as_bytes()));
        let created = match verdict(self.put(key, bytes("created"), Condition::Absent).await)? {
            Ok(meta) => meta,
            Err(detail) => return Ok(needed(false, format!("create-only: {detail}"))),
        };
        if let Err(detail) = verdict(self.put(key, bytes("swapped"), Condition::Match(created.etag)).await)? {
            return Ok(needed(false, format!("swap: {detail}")));
        }
        if let Err(detail) = verdict(self.put(key, bytes("plain"), Condition::None).await)? {
            return Ok(needed(false, format!("plain: {detail}")));
        }
        Ok(needed(true, "wrote an object create-only, swapped it, and wrote it plainly".to_owned()))
    }

    async fn may_get(&self, key: &str) -> Result<Permission> {
        let why = "to read content and references, and to ask for their size";
        let needed = |allowed, detail| Permission {
            action: "s3:GetObject",
            why,
            needed: true,
            unavoidable: false,
            allowed,
            detail,
        };
        Ok(match verdict(self.get(key, None).await)? {
            Ok(Some(_)) => needed(true, "read an object".to_owned()),
            Ok(None) => needed(true, "asked for an object that is not there".to_owned()),
            Err(detail) => needed(false, detail),
        })
    }

    async fn may_abort(&self, key: &str) -> Result<Permission> {
        let why = "to leave nothing behind of an upload in parts that fails or is interrupted";
        let action = "s3:AbortMultipartUpload";
        let needed = |allowed, detail| Permission { action, why, needed: true, unavoidable: false, allowed, detail };
        let call = self.call(key);
        let create = self.client.create_multipart_upload().bucket(&self.bucket).key(self.key(key));
        let created = async { create.send().await.map_err(|error| call.failure(error)) };
        let id = match verdict(self.watched(key, &Moving::new(0), created).await)? {
            Ok(output) => output.upload_id,
            // Whether it may abort is then seen on an upload that there is not.
            Err(_) => None,
        };
        if let Some(id) = &id {
            let body = Sending::from_static(b"part");
            let part = self.client.upload_part().bucket(&self.bucket).key(self.key(key)).upload_id(id);
            let sent = async { part.part_number(1).body(body).send().await.map_err(|error| call.failure(error)) };
            verdict(self.watched(key, &Moving::new(0), sent).await)?.ok();
        }
        let begun = id.is_some();
        let upload = id.unwrap_or_else(|| uuid::Uuid::new_v4().to_string());
        let abort = self.client.abort_multipart_upload().bucket(&self.bucket).key(self.key(key)).upload_id(&upload);
        let aborted = async {
            match abort.send().await {
                Ok(_) => Ok(()),
                // It got as far as looking for it.
                Err(error) if !begun && !forbidden(&error) => Ok(()),
                Err(error) => Err(call.failure(error)),
            }
        };
        Ok(match verdict(self.watched(key, &Moving::new(0), aborted).await)? {
            Ok(()) if begun => needed(true, "began an upload, sent a part and aborted it".to_owned()),
            Ok(()) => needed(true, "aborted an upload that there is not".to_owned()),
            Err(detail) if begun => needed(false, format!("{detail}; the upload {upload} of {key} stays behind")),
            Err(detail) => needed(false, detail),
        })
    }

    async fn may_list_uploads(&self, key: &str) -> Result<Permission> {
        let why = "to find uploads in parts that a killed process left behind";
        let action = "s3:ListBucketMultipartUploads";
        let needed = |allowed, detail| Permission { action, why, needed: true, unavoidable: false, allowed, detail };
        Ok(match verdict(self.unfinished(key).await)? {
            Ok(_) => needed(true, "listed uploads".to_owned()),
            Err(detail) => needed(false, detail),
        })
    }

    async fn may_delete(&self, key: &str, written: bool) -> Result<Permission> {
        let why = "to remove what gc found unreachable, and what probes leave";
        let needed = |allowed, detail| Permission {
            action: "s3:DeleteObject",
            why,
            needed: true,
            unavoidable: false,
            allowed,
            detail,
        };
        Ok(match verdict(self.delete(key).await)? {
            Ok(()) => needed(true, "removed an object".to_owned()),
            Err(detail) if written => needed(false, format!("{detail}; the object {key} stays behind")),
            Err(detail) => needed(false, detail),
        })
    }

    /// What is allowed and not needed. Whatever else goes wrong here is no answer.
    async fn too_much(&self, found: &mut Vec<Permission>) {
        let spare = |action, why, detail: &str| {
            let detail = detail.to_owned();
            Permission { action, why, needed: false, unavoidable: false, allowed: true, detail }
        };
        if self.client.list_buckets().send().await.is_ok() {
            let why = "lets these credentials see the names of all buckets";
            found.push(spare("s3:ListAllMyBuckets", why, "listed the buckets"));
        }
        if self.prefix.is_empty() {
            return;
        }
        if self.client.list_objects_v2().bucket(&self.bucket).max_keys(1).send().await.is_ok() {
            let why = "lets these credentials see the names of all objects of the bucket, by a listing that has no prefix; whoever is to learn that an object is absent may do that";
            let unavoidable = spare("s3:ListBucket", why, "listed without a prefix");
            found.push(Permission { unavoidable: true, ..unavoidable });
        }
        let outside = format!("sealift-probe-{}", uuid::Uuid::new_v4());
        let listing = self.client.list_objects_v2().bucket(&self.bucket).prefix(&outside).max_keys(1);
        if listing.send().await.is_ok() {
            let why = "lets these credentials see the names of objects outside of the prefix";
            found.push(spare("s3:ListBucket", why, "listed outside of the prefix"));
        }
        let never = "\"00000000000000000000000000000000\"";
        let put = self.client.put_object().bucket(&self.bucket).key(&outside).if_match(never);
        let written = put.body(Sending::from_static(b"probe")).send().await;
        let status = written.as_ref().err().and_then(|error| Some(error.raw_response()?.status().as_u16()));
        if written.is_ok() || matches!(status, Some(404 | 412)) {
            let why = "lets these credentials write outside of the prefix";
            found.push(spare("s3:PutObject", why, "was let through to a write outside of the prefix"));
        }
        if written.is_ok() {
            // A server that ignores conditions: the probe of conditional writes says so, this only cleans up.
            let _ = self.client.delete_object().bucket(&self.bucket).key(&outside).send().await;
        }
    }
}

fn forbidden<E>(error: &SdkError<E, aws_smithy_runtime_api::client::orchestrator::HttpResponse>) -> bool {
    error.raw_response().is_none_or(|raw| matches!(raw.status().as_u16(), 401 | 403) || raw.status().is_server_error())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_policy_is_bound_to_the_prefix() {
        let policy: serde_json::Value = serde_json::from_str(&least_policy("data", "/team/sealift/")).unwrap();
        let statements = policy["Statement"].as_array().unwrap();
        assert_eq!(statements.len(), 4);
        assert_eq!(statements[0]["Condition"]["StringLike"]["s3:prefix"][0], "team/sealift/*");
        assert_eq!(statements[0]["Resource"], "arn:aws:s3:::data");
        assert_eq!(statements[1]["Condition"]["Null"]["s3:prefix"], "true");
        assert_eq!(statements[3]["Resource"], "arn:aws:s3:::data/team/sealift/*");
        let whole: serde_json::Value = serde_json::from_str(&least_policy("data", "")).unwrap();
        assert_eq!(whole["Statement"].as_array().unwrap().len(), 3);
        assert!(whole["Statement"][0].get("Condition").is_none());
        assert_eq!(whole["Statement"][2]["Resource"], "arn:aws:s3:::data/*");
    }
}
