//! Tests of Python's files.

use super::*;
use crate::sbom::tests::never_panics;

fn bill(read: impl FnOnce(&mut Bill) -> Result<(), String>) -> Bill {
    let mut bill = Bill::default();
    read(&mut bill).unwrap();
    bill
}

fn references(bill: &Bill) -> Vec<&str> {
    bill.parts.keys().map(String::as_str).collect()
}

fn no_include(path: &str, _: &mut Bill) -> Result<(), String> {
    Err(format!("{path} is not to be read"))
}

const A: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

#[test]
fn requirements_are_read_with_pins_hashes_includes_and_what_is_only_asked_for() {
    let text = format!(
        "# comment\n--index-url https://pypi.example/simple\nFlask_Cors[x]==4.0.1 ; python_version < '4' \\\n    --hash=sha256:{A} \\\n    --hash=sha256:{}\n\
         numpy>=1.26,<3  # why\n-r more.txt\n-rbase.txt\n--requirement=last.txt\n--require-hashes\n-c constraints.txt\ntool @ https://example.org/tool-1.0.whl\ngit+https://example.org/x.git@v1#egg=x-y\n-e .\nstar==1.*\n",
        "b".repeat(64)
    );
    let mut asked = Vec::new();
    let found = bill(|bill| {
        requirements(&text, "requirements.txt", bill, &mut |path, _| {
            asked.push(path.to_owned());
            Ok(())
        })
    });
    assert_eq!(asked, ["more.txt", "base.txt", "last.txt"]);
    expect_test::expect![[r#"
        [
            "pkg:pypi/flask-cors@4.0.1",
            "pkg:pypi/numpy",
            "pkg:pypi/star",
            "pkg:pypi/tool?download_url=https:%2F%2Fexample.org%2Ftool-1.0.whl",
            "pkg:pypi/x-y?vcs_url=git%2Bhttps:%2F%2Fexample.org%2Fx.git%40v1%23egg%3Dx-y",
        ]
    "#]]
    .assert_debug_eq(&references(&found));
    assert_eq!(found.parts["pkg:pypi/flask-cors@4.0.1"].hashes.len(), 2);
    assert_eq!(found.parts["pkg:pypi/numpy"].requirement.as_deref(), Some(">=1.26,<3"));
    never_panics(&text, |text| requirements(text, "r", &mut Bill::default(), &mut |_, _| Ok(())));
}

#[test]
fn a_requirement_that_is_none_is_named_with_its_line() {
    let with = |text: &str| requirements(text, "r", &mut Bill::default(), &mut no_include).unwrap_err();
    assert_eq!(with("a==1\n<<<<<<< HEAD\n"), "line 2: \"<<<<<<< HEAD\" is no requirement");
    assert_eq!(with("a==1 --hash=sha256:12"), "line 1: \"sha256:12\" is no hash that is known");
    assert_eq!(with("two words"), "line 1: \"words\" after two is no version");
    assert_eq!(with("-r"), "line 1: it includes a file without a name");
    assert_eq!(with("-r other.txt"), "line 1: other.txt is not to be read");
}

#[test]
fn poetry_uv_pdm_and_pylock_say_the_same() {
    let poetry = format!(
        "[[package]]\nname = \"a\"\nversion = \"1.0\"\nfiles = [{{file = \"a.whl\", hash = \"sha256:{A}\"}}]\n[package.dependencies]\nB_c = {{version = \"*\"}}\n\
         [[package]]\nname = \"b-c\"\nversion = \"2.0\"\nfiles = []\n[package.source]\ntype = \"git\"\nurl = \"https://example.org/b.git\"\nresolved_reference = \"77\"\n[metadata]\nlock-version = \"2.0\"\n"
    );
    let uv = format!(
        "version = 1\n[[package]]\nname = \"app\"\nversion = \"0.1.0\"\nsource = {{ editable = \".\" }}\ndependencies = [{{ name = \"a\" }}]\n\
         [[package]]\nname = \"a\"\nversion = \"1.0\"\nsource = {{ registry = \"https://pypi.org/simple\" }}\nsdist = {{ url = \"https://f/a.tar.gz\", hash = \"sha256:{A}\" }}\ndependencies = [{{ name = \"b-c\", version = \"2.0\", marker = \"x\" }}]\n\
         [[package]]\nname = \"b-c\"\nversion = \"2.0\"\nsource = {{ registry = \"https://pypi.org/simple\" }}\nwheels = [{{ url = \"https://f/b.whl\", hash = \"sha256:{A}\" }}]\n\
         [[package]]\nname = \"b-c\"\nversion = \"3.0\"\nsource = {{ registry = \"https://pypi.org/simple\" }}\n"
    );
    let pdm = "[[package]]\nname = \"a\"\nversion = \"1.0\"\ndependencies = [\"b-c>=1; python_version<'4'\"]\n[[package]]\nname = \"b-c\"\nversion = \"2.0\"\n";
    let pylock = format!(
        "lock-version = \"1.0\"\n[[packages]]\nname = \"a\"\nversion = \"1.0\"\ndependencies = [{{ name = \"b-c\" }}]\nwheels = [{{ url = \"u\", hashes = {{ sha256 = \"{A}\" }} }}]\n[[packages]]\nname = \"b-c\"\nversion = \"2.0\"\n"
    );
    let read = |text: &str| bill(|bill| locked(text, "lock", bill));
    let found = read(&poetry);
    assert_eq!(references(&found)[0], "pkg:pypi/a@1.0");
    assert_eq!(references(&found)[1], "pkg:pypi/b-c@2.0?vcs_url=git%2Bhttps:%2F%2Fexample.org%2Fb.git%4077");
    assert_eq!(found.needs["pkg:pypi/a@1.0"].len(), 1);
    for text in [uv.as_str(), pdm, &pylock] {
        let found = read(text);
        assert!(found.needs["pkg:pypi/a@1.0"].contains("pkg:pypi/b-c@2.0"), "{text}");
        assert_eq!(found.needs["pkg:pypi/a@1.0"].len(), 1, "{text}");
    }
    let found = read(&uv);
    assert_eq!(found.roots, BTreeSet::from(["application:app@0.1.0".to_owned(), "pkg:pypi/b-c@3.0".to_owned()]));
    assert_eq!(read(&pylock).parts["pkg:pypi/a@1.0"].hashes.len(), 1);
    assert!(
        locked("[[package]]\nname = \"a\"", "lock", &mut Bill::default()).unwrap_err().contains("a has no version")
    );
    assert!(locked("[[package]]\nversion = \"1\"", "lock", &mut Bill::default()).unwrap_err().contains("no name"));
    for text in [&poetry, &uv, &pylock] {
        never_panics(text, |text| locked(text, "lock", &mut Bill::default()));
    }
}

#[test]
fn a_pipfile_lock_is_read() {
    let text = format!(
        r#"{{"_meta": {{"hash": {{}}}}, "default": {{"requests": {{"hashes": ["sha256:{A}"], "version": "==2.31.0"}}}}, "develop": {{"x": {{"git": "https://example.org/x", "ref": "1"}}}}}}"#
    );
    let found = bill(|bill| pipfile(&text, "Pipfile.lock", bill));
    assert_eq!(
        references(&found),
        ["pkg:pypi/requests@2.31.0", "pkg:pypi/x?vcs_url=git%2Bhttps:%2F%2Fexample.org%2Fx"]
    );
    assert!(pipfile("{}", "Pipfile.lock", &mut Bill::default()).is_err());
    never_panics(&text, |text| pipfile(text, "p", &mut Bill::default()));
}

#[test]
fn installed_metadata_has_licences_and_needs() {
    let text = "Metadata-Version: 2.1\nName: Foo_Bar\nVersion: 1.2\nLicense: UNKNOWN\nClassifier: License :: OSI Approved :: MIT License\nRequires-Dist: baz (>=1)\nRequires-Dist: test ; extra == 'dev'\n\nName: not-this\n";
    let (part, needs) = metadata(text, "m").unwrap();
    assert_eq!(part.purl.as_deref(), Some("pkg:pypi/foo-bar@1.2"));
    assert_eq!(part.licenses, BTreeSet::from(["MIT License".to_owned()]));
    assert_eq!(needs, ["baz"]);
    assert_eq!(metadata("Version: 1", "m").unwrap_err(), "it names no package");
    never_panics(text, |text| metadata(text, "m"));
}
