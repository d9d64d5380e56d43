//! Corners of the protocol, asked for by hand: what S3 overlooks, refuses by a certain name, or does a second time.

// Helpers of tests are tests, which the lint sees only in functions marked so.
#![allow(clippy::unwrap_used)]

mod raw;

use raw::{Answer, Client, Served};
use store::Limits;

const BODY: &[u8] = b"0123456789";

/// A server that takes unsigned requests.
struct Open {
    served: Served,
    directory: tempfile::TempDir,
}

impl Open {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let served = Served::start(directory.path(), Limits::default());
        Self { served, directory }
    }

    fn call(&self, method: &str, target: &str, headers: &str, body: &[u8]) -> Answer {
        Client::new(self.served.address).call(method, target, headers, body).unwrap()
    }

    fn get(&self, target: &str, headers: &str) -> Answer {
        self.call("GET", target, headers, b"")
    }

    #[track_caller]
    fn put(&self, target: &str, headers: &str, body: &[u8]) -> Answer {
        let answer = self.call("PUT", target, headers, body);
        assert_eq!(answer.status, 200, "{target}: {}", answer.text());
        answer
    }

    /// Begins an upload; its id.
    #[track_caller]
    fn begin(&self, key: &str) -> String {
        let answer = self.call("POST", &format!("/sealift/{key}?uploads"), "", b"");
        answer.between("UploadId").unwrap_or_else(|| panic!("{}", answer.text()))
    }

    fn end(self) {
        self.served.end().unwrap();
    }
}

#[track_caller]
fn is(what: &str, answer: &Answer, status: u16, code: &str) {
    assert_eq!((answer.status, answer.code().as_str()), (status, code), "{what}: {}", answer.text());
}

#[test]
fn a_range_that_cannot_be_read_is_none() {
    let it = Open::new();
    it.put("/sealift/a", "", BODY);
    it.put("/sealift/empty", "", b"");
    for range in
        ["bytes=,", "bytes=0-1,3-4", "bytes=5-2", "bytes=a-b", "lines=0-1", "bytes", "0-1", "bytes=1", "bytes=-"]
    {
        let header = format!("range: {range}\r\n");
        let answer = it.get("/sealift/a", &header);
        assert_eq!((answer.status, answer.body.as_slice()), (200, BODY), "{range}: {}", answer.text());
        assert!(answer.field("content-range").is_none(), "{range}");
        assert_eq!(it.call("HEAD", "/sealift/a", &header, b"").status, 200, "{range}");
        assert_eq!(it.get("/sealift/empty", &header).status, 200, "{range}");
    }
    let twice = it.get("/sealift/a", "range: bytes=0-1\r\nrange: bytes=3-4\r\n");
    assert_eq!((twice.status, twice.body.as_slice()), (200, BODY));
    for (range, body, told) in [
        ("bytes=2-3", &BODY[2..4], "bytes 2-3/10"),
        ("bytes=2-99", &BODY[2..], "bytes 2-9/10"),
        ("bytes=8-", &BODY[8..], "bytes 8-9/10"),
        ("bytes=-3", &BODY[7..], "bytes 7-9/10"),
        ("bytes=-99", BODY, "bytes 0-9/10"),
    ] {
        let answer = it.get("/sealift/a", &format!("range: {range}\r\n"));
        assert_eq!((answer.status, answer.body.as_slice()), (206, body), "{range}");
        assert_eq!(answer.field("content-range"), Some(told), "{range}");
    }
    for range in ["bytes=10-", "bytes=10-12", "bytes=-0"] {
        let answer = it.get("/sealift/a", &format!("range: {range}\r\n"));
        is(range, &answer, 416, "InvalidRange");
        assert_eq!(answer.field("content-range"), Some("bytes */10"), "{range}");
    }
    is("of nothing", &it.get("/sealift/empty", "range: bytes=0-\r\n"), 416, "InvalidRange");
    it.end();
}

#[test]
fn a_tag_may_lack_its_quotes() {
    let it = Open::new();
    let tag = it.put("/sealift/a", "", BODY).field("etag").unwrap().to_owned();
    let bare = tag.trim_matches('"').to_owned();
    for tag in [&tag, &bare] {
        assert_eq!(it.get("/sealift/a", &format!("if-match: {tag}\r\n")).status, 200);
        assert_eq!(it.get("/sealift/a", &format!("if-none-match: {tag}\r\n")).status, 304);
        let copy = it.put(
            "/sealift/b",
            &format!("x-amz-copy-source: /sealift/a\r\nx-amz-copy-source-if-match: {tag}\r\n"),
            b"",
        );
        assert!(copy.text().contains(&bare), "{}", copy.text());
        it.put("/sealift/a", &format!("if-match: {tag}\r\n"), BODY);
    }
    is("GET", &it.get("/sealift/a", "if-match: other_tag\r\n"), 412, "PreconditionFailed");
    is("PUT", &it.call("PUT", "/sealift/a", "if-match: other_tag\r\n", b"new"), 412, "PreconditionFailed");
    is("DELETE", &it.call("DELETE", "/sealift/a", "if-match: other_tag\r\n", b""), 412, "PreconditionFailed");
    let copy = "x-amz-copy-source: /sealift/a\r\nx-amz-copy-source-if-none-match: ";
    is("copy", &it.call("PUT", "/sealift/b", &format!("{copy}{bare}\r\n"), b""), 412, "PreconditionFailed");
    assert_eq!(it.get("/sealift/a", "").body, BODY);
    assert_eq!(it.call("DELETE", "/sealift/a", &format!("if-match: {bare}\r\n"), b"").status, 204);
    it.end();
}

#[test]
fn metadata_in_several_fields_is_one_value() {
    let it = Open::new();
    it.put("/sealift/a", "x-amz-meta-a: 1\r\nx-amz-meta-a: 2\r\nx-amz-meta-b: 3\r\n", BODY);
    let answer = it.get("/sealift/a", "");
    assert_eq!((answer.field("x-amz-meta-a"), answer.field("x-amz-meta-b")), (Some("1,2"), Some("3")));
    assert_eq!(answer.body, BODY);
    it.end();
}

#[test]
fn another_owner_than_ours_is_refused() {
    let it = Open::new();
    it.put("/sealift/a", "", BODY);
    let owner = it.get("/sealift?list-type=2&fetch-owner=true", "").between("ID").unwrap();
    for (method, target) in [
        ("GET", "/sealift/a"),
        ("PUT", "/sealift/a"),
        ("DELETE", "/sealift/a"),
        ("GET", "/sealift?uploads"),
        ("DELETE", "/sealift"),
    ] {
        let other = it.call(method, target, "x-amz-expected-bucket-owner: 111122223333\r\n", b"");
        is(&format!("{method} {target}"), &other, 403, "AccessDenied");
    }
    assert_eq!(it.get("/sealift/a", &format!("x-amz-expected-bucket-owner: {owner}\r\n")).body, BODY);
    let source = "x-amz-copy-source: /sealift/a\r\nx-amz-source-expected-bucket-owner: ";
    is("copy", &it.call("PUT", "/sealift/b", &format!("{source}111122223333\r\n"), b""), 403, "AccessDenied");
    it.put("/sealift/b", &format!("{source}{owner}\r\n"), b"");
    it.end();
}

#[test]
fn an_upload_that_was_completed_can_be_completed_again() {
    let it = Open::new();
    let id = it.begin("a");
    let tag = |number: u32, body: &[u8]| {
        let target = format!("/sealift/a?partNumber={number}&uploadId={id}");
        it.put(&target, "", body).field("etag").unwrap().to_owned()
    };
    let parts = [tag(2, &vec![1; 5 << 20]), tag(7, b"end")];
    let list = |parts: &[(u32, &str)]| {
        let parts: String = parts
            .iter()
            .map(|(number, tag)| format!("<Part><PartNumber>{number}</PartNumber><ETag>{tag}</ETag></Part>"))
            .collect();
        format!("<CompleteMultipartUpload>{parts}</CompleteMultipartUpload>")
    };
    let all = list(&[(2, &parts[0]), (7, &parts[1])]);
    let target = format!("/sealift/a?uploadId={id}");
    let complete = |list: &str| it.call("POST", &target, "if-none-match: *\r\n", list.as_bytes());
    let first = complete(&all);
    assert_eq!(first.status, 200, "{}", first.text());
    for round in 0..2 {
        let again = complete(&all);
        assert_eq!((again.status, again.between("ETag")), (200, first.between("ETag")), "{round}: {}", again.text());
    }
    is("fewer parts", &complete(&list(&[(2, &parts[0])])), 404, "NoSuchUpload");
    is("other numbers", &complete(&list(&[(1, &parts[0]), (7, &parts[1])])), 404, "NoSuchUpload");
    is("other parts", &complete(&list(&[(2, &parts[1]), (7, &parts[0])])), 404, "NoSuchUpload");
    let never = it.call("POST", "/sealift/a?uploadId=00000000000000000000000000000000", "", all.as_bytes());
    is("another upload", &never, 404, "NoSuchUpload");
    assert_eq!(it.get("/sealift/a?partNumber=7", "").body, b"end");
    it.put("/sealift/a", "", BODY);
    is("an object that came later", &complete(&all), 404, "NoSuchUpload");
    assert_eq!(it.get("/sealift/a", "").body, BODY);
    it.end();
}

#[test]
fn what_is_listed_with_parts_is_compared() {
    let it = Open::new();
    let begun = it.call("POST", "/sealift/a?uploads", "x-amz-checksum-algorithm: CRC32\r\n", b"");
    let id = begun.between("UploadId").unwrap();
    let target = format!("/sealift/a?partNumber=1&uploadId={id}");
    let bare = it.call("PUT", &target, "", BODY);
    is("a part without the checksum of the upload", &bare, 400, "InvalidRequest");
    let sum = "poTHxg=="; // of ten digits
    let part = it.put(&target, &format!("x-amz-checksum-crc32: {sum}\r\n"), BODY);
    let tag = part.field("etag").unwrap();
    let complete = |number: i32, sums: &str| {
        let list = format!(
            "<CompleteMultipartUpload><Part><PartNumber>{number}</PartNumber><ETag>{tag}</ETag>{sums}</Part></CompleteMultipartUpload>"
        );
        it.call("POST", &format!("/sealift/a?uploadId={id}"), "", list.as_bytes())
    };
    let crc32 = |sum: &str| format!("<ChecksumCRC32>{sum}</ChecksumCRC32>");
    is("none", &complete(1, ""), 400, "InvalidRequest");
    is("another", &complete(1, &crc32("AAAAAA==")), 400, "InvalidPart");
    is("nonsense", &complete(1, &crc32("nonsense")), 400, "InvalidArgument");
    is("another algorithm", &complete(1, "<ChecksumCRC32C>AAAAAA==</ChecksumCRC32C>"), 400, "BadDigest");
    let two = format!("{}<ChecksumCRC32C>AAAAAA==</ChecksumCRC32C>", crc32(sum));
    is("two", &complete(1, &two), 400, "InvalidArgument");
    is("number 0", &complete(0, &crc32(sum)), 400, "InvalidArgument");
    assert_eq!(complete(1, &crc32(sum)).status, 200);
    it.end();
}

#[test]
fn what_cannot_be_meant_is_refused_by_name() {
    let it = Open::new();
    it.put("/sealift/a", "", BODY);
    for source in ["bucket/%ZZ", "100%/foo", "UPPER/foo", "sealift", "sealift/", "/", "a b/c"] {
        let answer = it.call("PUT", "/sealift/b", &format!("x-amz-copy-source: {source}\r\n"), b"");
        is(source, &answer, 400, "InvalidArgument");
        let part =
            it.call("PUT", "/sealift/b?partNumber=1&uploadId=0", &format!("x-amz-copy-source: {source}\r\n"), b"");
        is(source, &part, 400, "InvalidArgument");
    }
    let copy = "x-amz-copy-source: /sealift/a\r\n";
    for directive in ["x-amz-tagging-directive: nonsense", "x-amz-metadata-directive: nonsense"] {
        is(directive, &it.call("PUT", "/sealift/b", &format!("{copy}{directive}\r\n"), b""), 400, "InvalidArgument");
    }
    it.put("/sealift/b", &format!("{copy}x-amz-tagging-directive: REPLACE\r\n"), b"");
    for number in ["0", "-1", "10001", "abc"] {
        for key in ["a", "nothing"] {
            let target = format!("/sealift/{key}?partNumber={number}");
            is(&target, &it.get(&target, ""), 400, "InvalidArgument");
            assert_eq!(it.call("HEAD", &target, "", b"").status, 400, "{target}");
        }
    }
    is("marker", &it.get("/sealift?uploads&key-marker=a&upload-id-marker=nonsense", ""), 400, "InvalidArgument");
    is("attributes", &it.get("/sealift/a?attributes", "x-amz-object-attributes: Nothing\r\n"), 400, "InvalidArgument");
    is("no attributes", &it.get("/sealift/a?attributes", ""), 400, "InvalidRequest");
    is("bucket", &it.call("PUT", "/nothing/b?partNumber=1&uploadId=0", "", b""), 404, "NoSuchBucket");
    it.end();
}

#[test]
fn errors_have_words_and_the_number_of_their_request() {
    let it = Open::new();
    for (target, code) in
        [("/sealift/a", "NoSuchKey"), ("/nothing/a", "NoSuchBucket"), ("/sealift/a?uploadId=0", "NoSuchUpload")]
    {
        let answer = it.get(target, "");
        is(target, &answer, 404, code);
        assert!(answer.between("Message").unwrap().contains("does not exist"), "{}", answer.text());
        assert_eq!(answer.between("RequestId").as_deref(), answer.field("x-amz-request-id"), "{}", answer.text());
    }
    it.end();
}

#[test]
fn the_tag_among_attributes_has_no_quotes() {
    let it = Open::new();
    let tag = it.put("/sealift/a", "", BODY).field("etag").unwrap().to_owned();
    let answer = it.get("/sealift/a?attributes", "x-amz-object-attributes: ETag,ObjectSize\r\n");
    assert_eq!(answer.between("ETag").unwrap(), tag.trim_matches('"'), "{}", answer.text());
    assert_eq!(answer.between("ObjectSize").as_deref(), Some("10"));
    it.end();
}

#[test]
fn uploads_are_listed_page_by_page_with_their_prefixes() {
    let it = Open::new();
    let keys = ["a/1", "a/2", "b", "b", "b", "c/1/2", "c/2", "d"];
    let begun: Vec<String> = keys.iter().map(|key| it.begin(key)).collect();
    for limit in 1..=6 {
        let (mut lines, mut next, mut pages) = (Vec::new(), String::new(), 0);
        loop {
            let answer = it.get(&format!("/sealift?delimiter=/&max-uploads={limit}&uploads{next}"), "").text();
            let mut rest = answer.as_str();
            let ids: Vec<&str> = std::iter::from_fn(|| {
                let (_, behind) = rest.split_once("<UploadId>")?;
                let (id, behind) = behind.split_once('<')?;
                rest = behind;
                Some(id)
            })
            .collect();
            let prefixes = answer.split("<CommonPrefixes><Prefix>").skip(1).map(|it| it.split('<').next().unwrap());
            lines.extend(ids.iter().copied().chain(prefixes).map(str::to_owned));
            pages += 1;
            let after = |tag: &str| {
                let (_, behind) = answer.split_once(&format!("<{tag}>"))?;
                Some(behind.split('<').next().unwrap().to_owned())
            };
            if after("IsTruncated").as_deref() != Some("true") {
                break;
            }
            let (key, id) = (after("NextKeyMarker").unwrap(), after("NextUploadIdMarker").unwrap());
            assert!(!key.is_empty() && !id.is_empty(), "{answer}");
            next = format!("&key-marker={key}&upload-id-marker={id}");
            assert!(pages < 10, "{answer}");
        }
        lines.sort_unstable();
        let mut all: Vec<String> = begun[2..5].iter().chain([&begun[7]]).cloned().collect();
        all.extend(["a/".to_owned(), "c/".to_owned()]);
        all.sort_unstable();
        assert_eq!(lines, all, "pages of {limit}");
        assert_eq!(pages, 6_usize.div_ceil(limit));
    }
    let ids: Vec<String> = it
        .get("/sealift?prefix=b&uploads", "")
        .text()
        .split("<UploadId>")
        .skip(1)
        .map(|it| it[..32].to_owned())
        .collect();
    assert_eq!(ids, begun[2..5].to_vec(), "of one key in the order in which they began");
    it.end();
}

#[test]
fn a_page_begins_behind_a_prefix() {
    let it = Open::new();
    for key in ["asdf", "boo/bar", "boo/baz", "cquux/thud", "cquux/bla"] {
        it.put(&format!("/sealift/{key}"), "", BODY);
    }
    let page = it.get("/sealift?list-type=2&delimiter=/&max-keys=1&start-after=boo/", "");
    assert_eq!(page.between("IsTruncated").as_deref(), Some("false"), "{}", page.text());
    assert!(page.text().contains("<CommonPrefixes><Prefix>cquux/</Prefix>"), "{}", page.text());
    it.end();
}

#[test]
fn expires_is_what_was_written() {
    let it = Open::new();
    it.put("/sealift/a", "expires: Sun, 01 Dec 2024 16:00:00 GMT\r\n", BODY);
    assert_eq!(it.get("/sealift/a", "").field("expires"), Some("Sun, 01 Dec 2024 16:00:00 GMT"));
    let date = "Thu%2C%2001%20Dec%202024%2016%3A00%3A00%20GMT";
    for method in ["GET", "HEAD"] {
        let answer = it.call(method, &format!("/sealift/a?response-expires={date}"), "", b"");
        assert_eq!(answer.field("expires"), Some("Thu, 01 Dec 2024 16:00:00 GMT"), "{method}");
    }
    it.end();
}

#[test]
fn bodies_that_are_read_at_once_do_not_mix() {
    let it = Open::new();
    let body = |number: u8| -> Vec<u8> {
        (0..2_600_000_usize).map(|at| u8::try_from(at / 4096 % 251).unwrap() ^ number).collect()
    };
    for number in 0..6 {
        it.put(&format!("/sealift/{number}"), "", &body(number));
    }
    std::thread::scope(|scope| {
        for number in 0..6 {
            let (it, expected) = (&it, body(number));
            scope.spawn(move || {
                let mut client = Client::new(it.served.address);
                for round in 0..8_usize {
                    // Ranges begin anywhere in a page, and end anywhere in a buffer.
                    let first = round * 77_777;
                    let range = format!("range: bytes={first}-\r\n");
                    let answer = client.call("GET", &format!("/sealift/{number}"), &range, b"").unwrap();
                    assert!(answer.status == 206 && answer.body == expected[first..], "object {number} from {first}");
                }
            });
        }
    });
    it.end();
}

/// Turns one bit of a stored body, as a disk may.
fn rot(it: &Open, key: &str, at: u64) {
    use std::os::unix::fs::FileExt as _;
    let path = it.directory.path().join(format!("buckets/sealift/{key}@"));
    let file = std::fs::File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 1], at).unwrap();
}

/// Puts together parts with checksums.
fn in_parts(it: &Open, key: &str, parts: &[&[u8]]) {
    let id = it.begin(key);
    let mut list = String::new();
    for (number, part) in (1..).zip(parts) {
        let answer = it.put(&format!("/sealift/{key}?partNumber={number}&uploadId={id}"), "", part);
        let etag = answer.field("etag").unwrap();
        list.push_str(&format!("<Part><PartNumber>{number}</PartNumber><ETag>{etag}</ETag></Part>"));
    }
    let list = format!("<CompleteMultipartUpload>{list}</CompleteMultipartUpload>");
    let answer = it.call("POST", &format!("/sealift/{key}?uploadId={id}"), "", list.as_bytes());
    assert_eq!(answer.status, 200, "{}", answer.text());
}

#[test]
fn a_copy_does_not_make_damaged_bytes_good_ones() {
    let it = Open::new();
    let large = vec![7; 5 << 20];
    it.put("/sealift/summed", "x-amz-checksum-crc32: DUoRhQ==\r\n", b"hello world");
    it.put("/sealift/plain", "", BODY);
    it.put("/sealift/large", "", &large);
    in_parts(&it, "parts", &[&large, BODY]);
    in_parts(&it, "part", &[BODY]);
    let sources = [("summed", 0), ("plain", 3), ("large", 1 << 20), ("parts", 5 << 20), ("part", 9)];
    let copy = |key: &str, to: &str| it.call("PUT", to, &format!("x-amz-copy-source: /sealift/{key}\r\n"), b"");
    let id = it.begin("assembled");
    for (key, _) in sources {
        assert_eq!(copy(key, "/sealift/copy").status, 200, "{key}");
        let whole = it.get(&format!("/sealift/{key}"), "").body;
        assert!(it.get("/sealift/copy", "").body == whole, "{key}");
        assert_eq!(copy(key, &format!("/sealift/assembled?partNumber=1&uploadId={id}")).status, 200, "{key}");
    }
    for (key, at) in sources {
        rot(&it, key, at);
        is(key, &copy(key, "/sealift/rotten"), 422, "XSealiftDamaged");
        is(key, &copy(key, &format!("/sealift/assembled?partNumber=2&uploadId={id}")), 422, "XSealiftDamaged");
    }
    is("no copy", &it.get("/sealift/rotten", ""), 404, "NoSuchKey");
    let parts = it.get(&format!("/sealift/assembled?uploadId={id}"), "").text();
    assert!(parts.contains("<PartNumber>1<") && !parts.contains("<PartNumber>2<"), "{parts}");
    it.end();
}

#[test]
fn a_version_is_refused_however_its_name_is_written() {
    let it = Open::new();
    it.put("/sealift/a", "", BODY);
    for name in ["versionId", "version%49d", "%76ersionId", "version%49%64"] {
        for method in ["GET", "HEAD", "DELETE"] {
            let answer = it.call(method, &format!("/sealift/a?{name}=x"), "", b"");
            assert_eq!(answer.status, 400, "{method} {name}: {}", answer.text());
        }
        assert_eq!(it.get(&format!("/sealift/a?{name}=null"), "").body, BODY);
    }
    it.end();
}
