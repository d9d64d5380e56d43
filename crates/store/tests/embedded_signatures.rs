//! Who may do what at the embedded server: requests by hand, signed, and broken in every way that a signature is there for.
//!
//! Each refusal must come in S3's own code and status, and leave the object that was there.

// Helpers of tests are tests, which the lint sees only in functions marked so.
#![allow(clippy::unwrap_used)]

mod raw;

use raw::{
    Answer, Client, Served,
    signing::{Signed, Signer, UNSIGNED, moment, sha256},
};
use std::{io::Write as _, net::SocketAddr};

const OLD: &[u8] = b"the old object";
const PATH: &str = "/sealift/a/key";

struct Guarded {
    served: Served,
    _directory: tempfile::TempDir,
}

impl Guarded {
    /// A server with credentials, and one object.
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let served = Served::signed(directory.path());
        let guarded = Self { served, _directory: directory };
        assert_eq!(guarded.send(&Signer::new("PUT", PATH, OLD), OLD).status, 200);
        guarded
    }

    fn address(&self) -> SocketAddr {
        self.served.address
    }

    fn send(&self, signer: &Signer<'_>, body: &[u8]) -> Answer {
        self.send_as(signer, &signer.sign().headers, body)
    }

    /// With other headers than those that were signed.
    fn send_as(&self, signer: &Signer<'_>, headers: &str, body: &[u8]) -> Answer {
        let target =
            if signer.query.is_empty() { signer.path.to_owned() } else { format!("{}?{}", signer.path, signer.query) };
        self.call(signer.method, &target, headers, body)
    }

    fn call(&self, method: &str, target: &str, headers: &str, body: &[u8]) -> Answer {
        Client::new(self.address()).call(method, target, headers, body).unwrap()
    }

    fn get(&self) -> Answer {
        self.send(&Signer::new("GET", PATH, b""), b"")
    }

    /// The request was refused so, and changed nothing.
    #[track_caller]
    fn refused(&self, what: &str, answer: &Answer, status: u16, code: &str) {
        assert_eq!((answer.status, answer.code().as_str()), (status, code), "{what}: {}", answer.text());
        assert!(answer.between("Message").is_some_and(|message| !message.is_empty()), "{what}: {}", answer.text());
        let there = self.get();
        assert_eq!((there.status, there.body.as_slice()), (200, OLD), "{what}: the old object is intact");
        let mut list = Signer::new("GET", "/sealift", b"");
        list.query = "list-type=2";
        let listed = self.send(&list, b"").text();
        assert_eq!(listed.matches("<Key>").count(), 1, "{what}: nothing else is there: {listed}");
    }

    fn end(self) {
        self.served.end().unwrap();
    }
}

#[test]
fn who_is_not_known_is_refused() {
    let it = Guarded::new();
    let put = Signer::new("PUT", PATH, b"new");
    let get = Signer::new("GET", PATH, b"");
    for good in [&put, &get] {
        let body: &[u8] = if good.method == "PUT" { b"new" } else { b"" };
        let (what, signed) = (good.method, good.sign());
        let other = if signed.signature.starts_with('0') { '1' } else { '0' };
        let flipped = format!("{other}{}", &signed.signature[1..]);
        let bad = it.send_as(good, &signed.headers.replace(&signed.signature, &flipped), body);
        it.refused(&format!("{what} with a wrong signature"), &bad, 403, "SignatureDoesNotMatch");
        let short = it.send_as(good, &signed.headers.replace(&signed.signature, &signed.signature[..40]), body);
        it.refused(&format!("{what} with half a signature"), &short, 403, "SignatureDoesNotMatch");
        let secret = it.send(&Signer { secret: "another", ..good.clone() }, body);
        it.refused(&format!("{what} with a wrong secret"), &secret, 403, "SignatureDoesNotMatch");
        let key = it.send(&Signer { key: "nobody", ..good.clone() }, body);
        it.refused(&format!("{what} with an unknown key"), &key, 403, "InvalidAccessKeyId");
        let anonymous = it.call(what, PATH, "", body);
        it.refused(&format!("{what} without a signature"), &anonymous, 403, "AccessDenied");
        for offset in [-16 * 60, 16 * 60] {
            let skewed = it.send(&Signer { time: moment(offset), ..good.clone() }, body);
            it.refused(&format!("{what} {offset} s off"), &skewed, 403, "RequestTimeTooSkewed");
        }
        let token = Signer { headers: vec![("x-amz-security-token", "token")], ..good.clone() };
        it.refused(&format!("{what} with a token"), &it.send(&token, body), 400, "InvalidToken");
    }
    let early = it.send(&Signer { time: moment(-14 * 60), ..get.clone() }, b"");
    assert_eq!(early.status, 200, "clocks may differ by a quarter of an hour: {}", early.text());
    it.end();
}

#[test]
fn version_2_and_malformed_authorizations_are_refused() {
    let it = Guarded::new();
    let second =
        "date: Sat, 21 Nov 2026 12:00:00 GMT\r\nauthorization: AWS a-key-of-tests:AAAAAAAAAAAAAAAAAAAAAAAAAAA=\r\n";
    it.refused("SigV2", &it.call("PUT", PATH, second, b"new"), 400, "InvalidRequest");
    let query = format!("{PATH}?AWSAccessKeyId=a-key-of-tests&Expires=4000000000&Signature=AAAA");
    it.refused("SigV2 in the address", &it.call("GET", &query, "", b""), 400, "InvalidRequest");
    it.refused("Basic", &it.call("PUT", PATH, "authorization: Basic YTpi\r\n", b"new"), 400, "InvalidArgument");
    let put = Signer::new("PUT", PATH, b"new");
    let signed = put.sign();
    let day = &put.time[..8];
    let cases = [
        ("no Credential", signed.headers.replace("Credential=", "Nothing="), "AuthorizationHeaderMalformed"),
        ("no SignedHeaders", signed.headers.replace("SignedHeaders=", "Nothing="), "AuthorizationHeaderMalformed"),
        ("no Signature", signed.headers.replace("Signature=", "Nothing="), "AuthorizationHeaderMalformed"),
        ("another service", signed.headers.replace("/s3/", "/ec2/"), "AuthorizationHeaderMalformed"),
        ("another end", signed.headers.replace("aws4_request", "aws5_request"), "AuthorizationHeaderMalformed"),
        ("another day", signed.headers.replace(&format!("/{day}/"), "/20200101/"), "AuthorizationHeaderMalformed"),
        ("no scope", signed.headers.replace("/us-east-1/s3/aws4_request", ""), "AuthorizationHeaderMalformed"),
    ];
    for (what, headers, code) in cases {
        it.refused(what, &it.send_as(&put, &headers, b"new"), 400, code);
    }
    let undated = signed.headers.replace("x-amz-date: ", "x-amz-other-date: ");
    it.refused("no date", &it.send_as(&put, &undated, b"new"), 403, "AccessDenied");
    for payload in ["nonsense", "ABC", ""] {
        let put = Signer { payload: payload.to_owned(), ..put.clone() };
        it.refused(&format!("payload {payload:?}"), &it.send(&put, b"new"), 400, "InvalidArgument");
    }
    it.end();
}

#[test]
fn a_body_is_the_one_that_was_signed() {
    let it = Guarded::new();
    let put = Signer::new("PUT", PATH, b"new");
    it.refused("PUT of another body", &it.send(&put, b"old"), 400, "XAmzContentSHA256Mismatch");
    let large = vec![7; 3 << 20];
    let put = Signer::new("PUT", PATH, &large);
    let mut other = large.clone();
    other[2 << 20] ^= 1;
    it.refused("PUT of another large body", &it.send(&put, &other), 400, "XAmzContentSHA256Mismatch");
    let delete = format!("<Delete><Object><Key>a/key</Key></Object></Delete>{}", " ".repeat(9));
    let mut post = Signer::new("POST", "/sealift", b"<Delete></Delete>");
    post.query = "delete=";
    it.refused("a list of another body", &it.send(&post, delete.as_bytes()), 400, "XAmzContentSHA256Mismatch");
    let nothing = Signer::new("GET", "/", b"nothing");
    it.refused("no body instead of one", &it.send(&nothing, b""), 400, "XAmzContentSHA256Mismatch");
    let put = Signer::new("PUT", PATH, b"new");
    it.refused("PUT of nothing", &it.send(&put, b""), 400, "XAmzContentSHA256Mismatch");
    let get = Signer::new("GET", PATH, b"");
    it.refused("GET with a body", &it.send(&get, b"body"), 400, "XAmzContentSHA256Mismatch");
    let delete = Signer::new("DELETE", PATH, b"");
    it.refused("DELETE with a body", &it.send(&delete, b"body"), 400, "XAmzContentSHA256Mismatch");
    it.end();
}

#[test]
fn a_request_that_is_replayed_is_the_same_one() {
    let it = Guarded::new();
    let mut put = Signer::new("PUT", PATH, OLD);
    put.headers = vec![("x-amz-meta-kind", "good")];
    let signed = put.sign();
    assert_eq!(it.send_as(&put, &signed.headers, OLD).status, 200);
    assert_eq!(it.send_as(&put, &signed.headers, OLD).status, 200, "the very same one may come again");
    let other: Vec<u8> = OLD.iter().map(|byte| byte ^ 1).collect();
    it.refused("another body", &it.send_as(&put, &signed.headers, &other), 400, "XAmzContentSHA256Mismatch");
    let hash = signed.headers.replace(&sha256(OLD), &sha256(&other));
    it.refused("another body with its hash", &it.send_as(&put, &hash, &other), 403, "SignatureDoesNotMatch");
    let unsigned = signed.headers.replace(&sha256(OLD), UNSIGNED);
    it.refused("another body without a hash", &it.send_as(&put, &unsigned, &other), 403, "SignatureDoesNotMatch");
    let key = it.call("PUT", "/sealift/another", &signed.headers, OLD);
    it.refused("another key", &key, 403, "SignatureDoesNotMatch");
    let method = it.call("DELETE", PATH, &signed.headers, OLD);
    it.refused("another method", &method, 403, "SignatureDoesNotMatch");
    let query = it.call("PUT", "/sealift/a/key?partNumber=1&uploadId=0", &signed.headers, OLD);
    it.refused("another query", &query, 403, "SignatureDoesNotMatch");
    let meta = it.send_as(&put, &signed.headers.replace("good", "evil"), OLD);
    it.refused("another header", &meta, 403, "SignatureDoesNotMatch");
    for added in ["x-amz-meta-more: 1", "x-amz-copy-source: /sealift/a/key", "x-amz-meta-kind: evil"] {
        let answer = it.send_as(&put, &format!("{added}\r\n{}", signed.headers), OLD);
        let code = if added.contains("kind") { "SignatureDoesNotMatch" } else { "AccessDenied" };
        it.refused(added, &answer, 403, code);
    }
    // What is mended behind the signature is under it as well.
    let mut range = Signer::new("GET", PATH, b"");
    range.headers = vec![("range", "bytes=0-1,3-4")];
    let good = range.sign();
    assert_eq!(it.send_as(&range, &good.headers, b"").body, OLD);
    let forged = it.send_as(&range, &good.headers.replace("3-4", "3-5"), b"");
    it.refused("another range", &forged, 403, "SignatureDoesNotMatch");
    let anonymous = it.call("GET", PATH, "range: nonsense\r\n", b"");
    it.refused("a range of nobody", &anonymous, 403, "AccessDenied");
    it.end();
}

#[test]
fn chunks_are_signed_one_by_one() {
    let it = Guarded::new();
    let pieces: [&[u8]; 2] = [&[1; 9000], &[2; 5000]];
    let length = pieces.concat().len().to_string();
    let mut put = Signer::new("PUT", "/sealift/chunked", b"");
    put.payload = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD".to_owned();
    put.headers = vec![("content-encoding", "aws-chunked"), ("x-amz-decoded-content-length", &length)];
    let signed = put.sign();
    let chunks = signed.chunks(&pieces);
    assert_eq!(it.send_as(&put, &signed.headers, &chunks.concat()).status, 200);
    assert_eq!(it.send(&Signer::new("GET", "/sealift/chunked", b""), b"").body, pieces.concat());
    assert_eq!(it.send(&Signer::new("DELETE", "/sealift/chunked", b""), b"").status, 204);

    let put = Signer { path: PATH, ..put };
    let send = |what: &str, signed: &Signed, body: Vec<u8>, status: u16, code: &str| {
        it.refused(what, &it.send_as(&put, &signed.headers, &body), status, code);
    };
    let signed = put.sign();
    let chunks = signed.chunks(&pieces);
    let flip = |at: usize| {
        let mut body = chunks.concat();
        body[at] ^= 1;
        body
    };
    let second = chunks[0].len();
    send("a byte of the first chunk", &signed, flip(second - 100), 403, "SignatureDoesNotMatch");
    send("a byte of the second chunk", &signed, flip(second + 200), 403, "SignatureDoesNotMatch");
    let swapped = [&chunks[1][..], &chunks[0], &chunks[2]].concat();
    send("chunks in another order", &signed, swapped, 403, "SignatureDoesNotMatch");
    let left_out = [&chunks[0][..], &chunks[2]].concat();
    send("a chunk left out", &signed, left_out, 403, "SignatureDoesNotMatch");
    send("the end left out", &signed, chunks[..2].concat(), 400, "IncompleteBody");
    send("half of a chunk", &signed, chunks.concat()[..second - 10].to_vec(), 400, "IncompleteBody");
    let other = Signer { secret: "another", ..put.clone() }.sign().chunks(&pieces);
    send("chunks of another key", &signed, other.concat(), 403, "SignatureDoesNotMatch");
    it.end();
}

#[test]
fn an_address_can_be_signed_for_a_time() {
    let it = Guarded::new();
    let get = Signer::new("GET", PATH, b"");
    let call = |method: &str, target: &str, body: &[u8]| it.call(method, target, "", body);
    assert_eq!(call("GET", &get.presign(60), b"").body, OLD);
    assert_eq!(call("PUT", &Signer::new("PUT", PATH, b"").presign(60), OLD).status, 200);
    let good = get.presign(60);
    let old = Signer { time: moment(-61), ..get.clone() };
    let expired = call("GET", &old.presign(60), b"");
    it.refused("an expired one", &expired, 403, "AccessDenied");
    assert!(expired.text().contains("Request has expired"), "{}", expired.text());
    assert_eq!(call("GET", &Signer { time: moment(-50), ..get.clone() }.presign(60), b"").status, 200);
    let longer = call("GET", &old.presign(60).replace("Expires=60", "Expires=600"), b"");
    it.refused("one made longer", &longer, 403, "SignatureDoesNotMatch");
    it.refused("another method", &call("DELETE", &good, b""), 403, "SignatureDoesNotMatch");
    let key = good.replace(PATH, "/sealift/another");
    it.refused("another key", &call("GET", &key, b""), 403, "SignatureDoesNotMatch");
    let more = good.replace("X-Amz-Algorithm", "response-content-type=a&X-Amz-Algorithm");
    it.refused("more query", &call("GET", &more, b""), 403, "SignatureDoesNotMatch");
    it.refused(
        "a wrong signature",
        &call("GET", &good.replace("Signature=", "Signature=0"), b""),
        403,
        "SignatureDoesNotMatch",
    );
    for expires in [-1, 604_801] {
        let answer = call("GET", &get.presign(expires), b"");
        it.refused(&format!("{expires} s"), &answer, 400, "AuthorizationQueryParametersError");
    }
    let missing = good.replace("X-Amz-Date=", "X-Amz-Other=");
    it.refused("no date", &call("GET", &missing, b""), 400, "AuthorizationQueryParametersError");
    let both = it.call("GET", &good, &get.sign().headers, b"");
    it.refused("two signatures", &both, 400, "InvalidArgument");
    it.end();
}

#[test]
fn what_is_refused_by_its_head_leaves_the_connection_in_order() {
    let it = Guarded::new();
    let mut client = Client::new(it.address());
    let get = Signer::new("GET", PATH, b"").sign().headers;
    for round in 0..20 {
        let refused = client.call("GET", PATH, "", b"").unwrap();
        assert_eq!(refused.status, 403, "{round}");
        assert_eq!(client.call("GET", PATH, &get, b"").unwrap().body, OLD, "{round}");
    }
    // A refused body is not taken for the next request.
    write!(client.stream, "PUT {PATH} HTTP/1.1\r\nhost: test\r\ncontent-length: 26\r\n\r\nDELETE /sealift/a/key HTTP")
        .unwrap();
    assert_eq!(client.answer(false).unwrap().status, 403);
    assert_eq!(it.get().body, OLD);
    it.end();
}
