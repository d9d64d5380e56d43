"""What S3 does, asked by boto3: `s3.py ENDPOINT BUCKET`, with the credentials in the environment.

Every function named `check_…` is one check, run against its own prefix. All are run; the exit code says whether all held.
"""

import base64
import datetime
import hashlib
import io
import os
import sys
import traceback
import urllib.error
import urllib.request
import zlib

import boto3
import botocore.auth
import botocore.config
import botocore.exceptions

ENDPOINT, BUCKET = sys.argv[1:3]
MIB = 1024 * 1024


def client(**options):
    style = {"addressing_style": "path"}
    config = botocore.config.Config(signature_version="s3v4", s3=style, retries={"total_max_attempts": 1})
    return boto3.client("s3", endpoint_url=ENDPOINT, region_name="us-east-1", config=config, **options)


s3 = client()


def refused(status, code, call, **arguments):
    """The call fails with this status and, where an answer has a body, this code."""
    try:
        answer = call(**arguments)
    except botocore.exceptions.ClientError as error:
        got = (error.response["ResponseMetadata"]["HTTPStatusCode"], error.response["Error"]["Code"])
        assert got == (status, code), f"{got} and not {(status, code)}: {error}"
        return
    raise AssertionError(f"not refused with {code}: {answer}")


def same(got, wanted):
    assert got == wanted, f"{got!r} and not {wanted!r}"


def put(key, body=b"body", **more):
    return s3.put_object(Bucket=BUCKET, Key=key, Body=body, **more)


def get(key, **more):
    return s3.get_object(Bucket=BUCKET, Key=key, **more)


def read(key, **more):
    return get(key, **more)["Body"].read()


def reflected(data, polynomial, width):
    """A CRC as S3 has them: reflected, inverted before and after."""
    mask = (1 << width) - 1
    crc = mask
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (polynomial if crc & 1 else 0)
    return (crc ^ mask).to_bytes(width // 8, "big")


SUMS = {
    "CRC32": lambda data: zlib.crc32(data).to_bytes(4, "big"),
    "CRC32C": lambda data: reflected(data, 0x82F63B78, 32),
    "CRC64NVME": lambda data: reflected(data, 0x9A6C9329AC4BC9B5, 64),
    "SHA1": lambda data: hashlib.sha1(data).digest(),
    "SHA256": lambda data: hashlib.sha256(data).digest(),
}


def summed(name, data):
    return base64.b64encode(SUMS[name](data)).decode()


def check_checksums():
    # The check values of the catalogue of CRCs, so that this file is not judged by itself.
    same(SUMS["CRC32C"](b"123456789").hex(), "e3069283")
    same(SUMS["CRC64NVME"](b"123456789").hex(), "ae8b14860a799888")
    data = b"what is summed" * 50
    for name in SUMS:
        key, field = f"sums/{name}", f"Checksum{name}"
        good = summed(name, data)
        same(put(key, data, **{field: good})[field], good)
        same(get(key, ChecksumMode="ENABLED")[field], good)
        same(s3.head_object(Bucket=BUCKET, Key=key, ChecksumMode="ENABLED")[field], good)
        told = s3.get_object_attributes(Bucket=BUCKET, Key=key, ObjectAttributes=["Checksum", "ObjectSize"])
        same(told["Checksum"][field], good)
        same(told["ObjectSize"], len(data))
        wrong = {"Bucket": BUCKET, "Key": key, "Body": b"another", field: summed(name, b"a third")}
        refused(400, "BadDigest", s3.put_object, **wrong)
        same(read(key), data)
    # By a trailer of an aws-chunked body, as the SDKs send them for streams.
    for name in ("CRC32", "SHA1", "SHA256"):
        put("sums/trailer", io.BytesIO(data), ChecksumAlgorithm=name)
        same(get("sums/trailer", ChecksumMode="ENABLED")[f"Checksum{name}"], summed(name, data))
    md5 = base64.b64encode(hashlib.md5(b"other").digest()).decode()
    refused(400, "BadDigest", s3.put_object, Bucket=BUCKET, Key="sums/SHA1", Body=data, ContentMD5=md5)
    refused(400, "InvalidDigest", s3.put_object, Bucket=BUCKET, Key="sums/SHA1", Body=data, ContentMD5="short")
    same(read("sums/SHA1"), data)


def upload_parts(key, parts, algorithm=None, **more):
    if algorithm:
        more["ChecksumAlgorithm"] = algorithm
    upload = s3.create_multipart_upload(Bucket=BUCKET, Key=key, **more)["UploadId"]
    done = []
    for number, part in enumerate(parts, 1):
        one = {"Bucket": BUCKET, "Key": key, "UploadId": upload, "PartNumber": number, "Body": part}
        if algorithm:
            one["ChecksumAlgorithm"] = algorithm
        answer = s3.upload_part(**one)
        part = {"PartNumber": number, "ETag": answer["ETag"]}
        if algorithm:
            part[f"Checksum{algorithm}"] = answer[f"Checksum{algorithm}"]
        done.append(part)
    return upload, done


def check_multipart():
    parts = [os.urandom(8 * MIB), os.urandom(8 * MIB), os.urandom(4 * MIB)]
    whole = b"".join(parts)
    for name in ("SHA256", "CRC32"):
        upload, done = upload_parts("multi/a", parts, name)
        same([part["Size"] for part in s3.list_parts(Bucket=BUCKET, Key="multi/a", UploadId=upload)["Parts"]],
             [len(part) for part in parts])
        same([one["UploadId"] for one in s3.list_multipart_uploads(Bucket=BUCKET, Prefix="multi/")["Uploads"]], [upload])
        target = {"Bucket": BUCKET, "Key": "multi/a", "UploadId": upload}
        twisted = [dict(done[0], ETag='"' + "0" * 32 + '"'), *done[1:]]
        refused(400, "InvalidPart", s3.complete_multipart_upload, MultipartUpload={"Parts": twisted}, **target)
        backwards = {"Parts": done[::-1]}
        refused(400, "InvalidPartOrder", s3.complete_multipart_upload, MultipartUpload=backwards, **target)
        answer = s3.complete_multipart_upload(MultipartUpload={"Parts": done}, **target)
        composite = base64.b64encode(SUMS[name](b"".join(SUMS[name](part) for part in parts))).decode() + "-3"
        same(answer[f"Checksum{name}"], composite)
        etag = hashlib.md5(b"".join(hashlib.md5(part).digest() for part in parts)).hexdigest()
        same(answer["ETag"], f'"{etag}-3"')
        assert read("multi/a") == whole, "the object is not its parts"
        assert read("multi/a", PartNumber=2) == parts[1], "part 2 is not what was uploaded"
        same(s3.head_object(Bucket=BUCKET, Key="multi/a", PartNumber=2)["PartsCount"], 3)
    upload, done = upload_parts("multi/full", parts, "CRC32", ChecksumType="FULL_OBJECT")
    target = {"Bucket": BUCKET, "Key": "multi/full", "UploadId": upload, "MultipartUpload": {"Parts": done}}
    refused(400, "BadDigest", s3.complete_multipart_upload, ChecksumCRC32=summed("CRC32", b"x"), **target)
    refused(404, "404", s3.head_object, Bucket=BUCKET, Key="multi/full")
    answer = s3.complete_multipart_upload(ChecksumCRC32=summed("CRC32", whole), **target)
    same((answer["ChecksumCRC32"], answer["ChecksumType"]), (summed("CRC32", whole), "FULL_OBJECT"))
    upload, done = upload_parts("multi/copied", [whole[: 6 * MIB]])
    target = {"Bucket": BUCKET, "Key": "multi/copied", "UploadId": upload}
    source = {"Bucket": BUCKET, "Key": "multi/full"}
    part = s3.upload_part_copy(PartNumber=2, CopySource=source, CopySourceRange=f"bytes=0-{MIB - 1}", **target)
    done.append({"PartNumber": 2, "ETag": part["CopyPartResult"]["ETag"]})
    s3.complete_multipart_upload(MultipartUpload={"Parts": done}, **target)
    assert read("multi/copied") == whole[: 6 * MIB] + whole[:MIB], "a copied part is not what it is a copy of"
    upload, done = upload_parts("multi/small", [b"small", b"parts"])
    target = {"Bucket": BUCKET, "Key": "multi/small", "UploadId": upload}
    refused(400, "EntityTooSmall", s3.complete_multipart_upload, MultipartUpload={"Parts": done}, **target)
    s3.abort_multipart_upload(**target)
    refused(404, "NoSuchUpload", s3.list_parts, **target)
    refused(404, "NoSuchUpload", s3.abort_multipart_upload, **target)
    refused(404, "NoSuchBucket", s3.abort_multipart_upload, **dict(target, Bucket="no-such-bucket"))
    # boto3's own choice of parts and threads.
    s3.upload_fileobj(io.BytesIO(whole), BUCKET, "multi/transfer")
    into = io.BytesIO()
    s3.download_fileobj(BUCKET, "multi/transfer", into)
    assert into.getvalue() == whole, "what comes back is not what went"


def check_lists():
    keys = ["a", "a/b", "a/c/d", "b c", "b%20c", "b+c", "ü/x", "z//y", "z/../y"]
    for key in keys:
        put(f"list/{key}", b"")
    wanted = sorted(f"list/{key}" for key in keys)
    for operation in ("list_objects", "list_objects_v2"):
        for size in (1, 2, 1000):
            pages = s3.get_paginator(operation).paginate(Bucket=BUCKET, Prefix="list/", PaginationConfig={"PageSize": size})
            same([one["Key"] for page in pages for one in page.get("Contents", [])], wanted)
            pages = s3.get_paginator(operation).paginate(
                Bucket=BUCKET, Prefix="list/", Delimiter="/", PaginationConfig={"PageSize": size})
            pages = list(pages)
            same([one["Key"] for page in pages for one in page.get("Contents", [])],
                 ["list/a", "list/b c", "list/b%20c", "list/b+c"])
            same([one["Prefix"] for page in pages for one in page.get("CommonPrefixes", [])],
                 ["list/a/", "list/z/", "list/ü/"])
    listed = s3.list_objects_v2(Bucket=BUCKET, Prefix="list/", StartAfter="list/b+c")
    same([one["Key"] for one in listed["Contents"]], wanted[wanted.index("list/b+c") + 1:])
    same(listed["KeyCount"], len(listed["Contents"]))
    # As it goes over the wire.
    bare = s3.generate_presigned_url("list_objects_v2", {"Bucket": BUCKET, "Prefix": "list/b", "EncodingType": "url"})
    text = urllib.request.urlopen(bare).read().decode()
    assert "<EncodingType>url</EncodingType>" in text and "<Key>list/b%2Bc</Key>" in text, text
    for key in keys:
        same(read(f"list/{key}"), b"")
    refused(404, "NoSuchBucket", s3.list_objects_v2, Bucket="no-such-bucket")
    refused(400, "InvalidArgument", s3.list_objects_v2, Bucket=BUCKET, MaxKeys=-1)
    same(s3.list_objects_v2(Bucket=BUCKET, MaxKeys=0)["IsTruncated"], False)


def check_copies():
    put("copy/from ü+%", b"copied", Metadata={"who": "me"}, ContentType="text/x", CacheControl="no-store")
    source = {"Bucket": BUCKET, "Key": "copy/from ü+%"}
    s3.copy_object(Bucket=BUCKET, Key="copy/to", CopySource=source)
    got = get("copy/to")
    same((got["Body"].read(), got["Metadata"], got["ContentType"], got["CacheControl"]),
         (b"copied", {"who": "me"}, "text/x", "no-store"))
    s3.copy_object(Bucket=BUCKET, Key="copy/to", CopySource=source, MetadataDirective="REPLACE", Metadata={"x": "y"})
    same(get("copy/to")["Metadata"], {"x": "y"})
    refused(400, "InvalidRequest", s3.copy_object, Bucket=BUCKET, Key=source["Key"], CopySource=source)
    s3.copy_object(Bucket=BUCKET, Key=source["Key"], CopySource=source, MetadataDirective="REPLACE", Metadata={"n": "1"})
    same((read(source["Key"]), get(source["Key"])["Metadata"]), (b"copied", {"n": "1"}))
    etag = get("copy/to")["ETag"]
    target = {"Bucket": BUCKET, "Key": "copy/c", "CopySource": source}
    refused(412, "PreconditionFailed", s3.copy_object, CopySourceIfNoneMatch=etag, **target)
    refused(412, "PreconditionFailed", s3.copy_object, CopySourceIfMatch='"nothing"', **target)
    missing = {"Bucket": BUCKET, "Key": "copy/none"}
    refused(404, "NoSuchKey", s3.copy_object, Bucket=BUCKET, Key="copy/c", CopySource=missing)


def check_deletions():
    keys = ["delete/a", "delete/b & <c>", "delete/ü\n"]
    for key in keys:
        put(key)
    wanted = {"Objects": [{"Key": key} for key in [*keys, "delete/none"]]}
    answer = s3.delete_objects(Bucket=BUCKET, Delete=wanted)
    same(sorted(one["Key"] for one in answer["Deleted"]), sorted([*keys, "delete/none"]))
    same(s3.list_objects_v2(Bucket=BUCKET, Prefix="delete/")["KeyCount"], 0)
    put("delete/a")
    answer = s3.delete_objects(Bucket=BUCKET, Delete={"Objects": [{"Key": "delete/a"}], "Quiet": True})
    same((answer.get("Deleted"), answer.get("Errors")), (None, None))
    s3.delete_object(Bucket=BUCKET, Key="delete/a")
    refused(404, "NoSuchKey", s3.get_object, Bucket=BUCKET, Key="delete/a")
    put("delete/a")
    refused(412, "PreconditionFailed", s3.delete_object, Bucket=BUCKET, Key="delete/a", IfMatch='"other"')
    same(read("delete/a"), b"body")


def check_ranges():
    put("range", b"0123456789")
    for wanted, body, told in (
        ("bytes=2-4", b"234", "bytes 2-4/10"),
        ("bytes=7-", b"789", "bytes 7-9/10"),
        ("bytes=-3", b"789", "bytes 7-9/10"),
        ("bytes=-30", b"0123456789", "bytes 0-9/10"),
        ("bytes=8-100", b"89", "bytes 8-9/10"),
    ):
        got = get("range", Range=wanted)
        same((got["Body"].read(), got["ContentRange"], got["ResponseMetadata"]["HTTPStatusCode"]), (body, told, 206))
    for wanted in ("bytes=10-", "bytes=20-30", "bytes=-0"):
        refused(416, "InvalidRange", s3.get_object, Bucket=BUCKET, Key="range", Range=wanted)
    put("range/empty", b"")
    refused(416, "InvalidRange", s3.get_object, Bucket=BUCKET, Key="range/empty", Range="bytes=0-")


def check_conditions():
    etag = put("if", b"one")["ETag"]
    for form in (etag, etag.strip('"')):
        same(read("if", IfMatch=form), b"one")
        refused(304, "304", s3.get_object, Bucket=BUCKET, Key="if", IfNoneMatch=form)
        refused(304, "304", s3.head_object, Bucket=BUCKET, Key="if", IfNoneMatch=form)
    same(read("if", IfNoneMatch='"other"'), b"one")
    same(read("if", IfNoneMatch="other"), b"one")
    refused(412, "PreconditionFailed", s3.get_object, Bucket=BUCKET, Key="if", IfMatch='"other"')
    date = get("if")["LastModified"]
    day = datetime.timedelta(days=1)
    refused(304, "304", s3.get_object, Bucket=BUCKET, Key="if", IfModifiedSince=date)
    refused(412, "PreconditionFailed", s3.get_object, Bucket=BUCKET, Key="if", IfUnmodifiedSince=date - day)
    same(read("if", IfModifiedSince=date - day), b"one")
    new = {"Bucket": BUCKET, "Key": "if", "Body": b"two"}
    refused(412, "PreconditionFailed", s3.put_object, IfNoneMatch="*", **new)
    refused(412, "PreconditionFailed", s3.put_object, IfMatch='"other"', **new)
    same(read("if"), b"one")
    second = s3.put_object(IfMatch=etag, **new)["ETag"]
    same(read("if"), b"two")
    s3.put_object(IfMatch=second.strip('"'), **dict(new, Body=b"three"))
    same(read("if"), b"three")
    s3.put_object(IfNoneMatch="*", **dict(new, Key="if/new"))
    refused(404, "NoSuchKey", s3.put_object, IfMatch=etag, **dict(new, Key="if/none"))
    upload, done = upload_parts("if", [b"four"])
    target = {"Bucket": BUCKET, "Key": "if", "UploadId": upload, "MultipartUpload": {"Parts": done}}
    refused(412, "PreconditionFailed", s3.complete_multipart_upload, IfNoneMatch="*", **target)
    same(read("if"), b"three")


def over_http(url, method="GET", body=None):
    request = urllib.request.Request(url, data=body, method=method)
    try:
        with urllib.request.urlopen(request) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


class Clock:
    """The signer's clock is wrong by so much."""

    def __init__(self, **by):
        self.by = datetime.timedelta(**by)

    def __enter__(self):
        self.right = right = botocore.auth.get_current_datetime
        botocore.auth.get_current_datetime = lambda *args, **more: right(*args, **more) + self.by

    def __exit__(self, *_):
        botocore.auth.get_current_datetime = self.right


def check_presigned():
    what = {"Bucket": BUCKET, "Key": "presigned/ü +%"}
    same(over_http(s3.generate_presigned_url("put_object", what), "PUT", b"by url")[0], 200)
    url = s3.generate_presigned_url("get_object", what)
    same(over_http(url), (200, b"by url"))
    status, body = over_http(url, "PUT", b"x")
    assert status == 403 and b"<Code>SignatureDoesNotMatch</Code>" in body, body
    status, body = over_http(url.replace("presigned", "other"))
    assert status == 403 and b"<Code>SignatureDoesNotMatch</Code>" in body, body
    with Clock(minutes=-10):
        expired = s3.generate_presigned_url("get_object", what, ExpiresIn=60)
        valid = s3.generate_presigned_url("get_object", what, ExpiresIn=3600)
    status, body = over_http(expired)
    assert status == 403 and b"<Code>AccessDenied</Code>" in body and b"expired" in body, (status, body)
    same(over_http(valid), (200, b"by url"))
    status, body = over_http(f"{ENDPOINT}/{BUCKET}/presigned")
    assert status == 403 and b"<Code>AccessDenied</Code>" in body, (status, body)
    put("presigned/plain", b"x")
    named = dict(what, Key="presigned/plain", ResponseContentDisposition="attachment", ResponseContentType="a/b")
    with urllib.request.urlopen(s3.generate_presigned_url("get_object", named)) as answer:
        same((answer.headers["content-disposition"], answer.headers["content-type"]), ("attachment", "a/b"))


def check_credentials():
    key, secret = os.environ["AWS_ACCESS_KEY_ID"], os.environ["AWS_SECRET_ACCESS_KEY"]
    what = {"Bucket": BUCKET, "Key": "credentials"}
    put("credentials", b"kept")
    stranger = client(aws_access_key_id="stranger", aws_secret_access_key=secret)
    liar = client(aws_access_key_id=key, aws_secret_access_key="not the secret")
    for one, code in ((stranger, "InvalidAccessKeyId"), (liar, "SignatureDoesNotMatch")):
        refused(403, code, one.get_object, **what)
        refused(403, code, one.put_object, Body=b"changed", **what)
        refused(403, code, one.list_objects_v2, Bucket=BUCKET)
    for by in (-20, 20):
        with Clock(minutes=by):
            refused(403, "RequestTimeTooSkewed", client().get_object, **what)
    same(read("credentials"), b"kept")


def check_buckets():
    s3.create_bucket(Bucket="another-bucket")
    refused(409, "BucketAlreadyOwnedByYou", s3.create_bucket, Bucket="another-bucket")
    s3.put_object(Bucket="another-bucket", Key="k", Body=b"")
    assert {"another-bucket", BUCKET} <= {one["Name"] for one in s3.list_buckets()["Buckets"]}
    refused(409, "BucketNotEmpty", s3.delete_bucket, Bucket="another-bucket")
    s3.delete_object(Bucket="another-bucket", Key="k")
    s3.delete_bucket(Bucket="another-bucket")
    refused(404, "404", s3.head_bucket, Bucket="another-bucket")
    same(s3.get_bucket_location(Bucket=BUCKET)["LocationConstraint"], None)


def main():
    checks = {name: check for name, check in globals().items() if name.startswith("check_")}
    failed = []
    for name, check in checks.items():
        try:
            check()
        except Exception:  # A check that fails does not keep the others from being run.
            traceback.print_exc()
            failed.append(name)
    print(f"{len(checks) - len(failed)} of {len(checks)} hold; failed: {failed}")
    sys.exit(bool(failed))


main()
