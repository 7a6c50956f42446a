//! What `make install` and `make install-service` put next to the program: files that match the
//! command line, and a unit that systemd accepts and calls well isolated.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::process::{Command, Stdio};

use crate::docker::{left_out, root, text};
use crate::scratch::Scratch;

fn source(path: &str) -> String {
    fs::read_to_string(root().join(path)).expect(path)
}

#[test]
fn man_page_and_completion_know_every_option() {
    let cli = source("src/cli.rs");
    let man = source("src/install/mom.1").replace('\\', "");
    let completion = source("src/install/mom.bash");
    let table = cli
        .split_once("const OPTIONS")
        .expect("OPTIONS in cli.rs")
        .1;
    let options: Vec<&str> = table
        .lines()
        .skip(1)
        .map_while(|line| line.trim().strip_prefix("(\"")?.split('"').next())
        .collect();
    assert!(options.len() >= 12, "{options:?}");
    for option in options {
        assert!(man.contains(&format!("--{option}")), "man page: {option}");
        assert!(completion.contains(&format!("--{option}")), "{option}");
    }
    let help = cli.split("\\\n").nth(1).expect("HELP in cli.rs");
    let help = help.split("\n\";").next().expect("its end");
    let words = help.split(|c: char| !c.is_ascii_uppercase() && c != '_');
    let variables: Vec<&str> = words
        .filter(|word| word.contains('_') && word.len() > 6)
        .collect();
    assert!(variables.contains(&"MOM_SLACK_APP_TOKEN"), "{variables:?}");
    for variable in variables.iter().filter(|word| **word != "_BASE_URL") {
        assert!(man.contains(variable), "man page: {variable}");
    }
}

#[test]
fn what_is_installed_goes_again() {
    let scratch = Scratch::new();
    scratch.write("build/mom", "newer than the sources");
    let (build, dest) = (scratch.path("build"), scratch.path("dest"));
    let make = |target: &str| {
        let mut make = Command::new("make");
        make.current_dir(root()).args([target, "INIT=systemd"]);
        make.arg(format!("BUILD={}", build.display()));
        make.arg(format!("DESTDIR={}", dest.display()));
        let output = make.output().expect("run make");
        assert!(output.status.success(), "{}", text(&output.stderr));
    };
    make("install");
    make("install-service");
    let installed = || {
        let mut find = Command::new("find");
        find.arg(&dest).args(["!", "-type", "d", "-printf", "%P\n"]);
        let found = find.output().unwrap();
        text(&found.stdout).lines().map(str::to_owned).collect()
    };
    let files: BTreeSet<String> = installed();
    let expected = [
        "etc/systemd/system/mom.service",
        "etc/sysusers.d/mom.conf",
        "usr/local/bin/mom",
        "usr/local/bin/mom-sandbox",
        "usr/local/share/bash-completion/completions/mom",
        "usr/local/share/bash-completion/completions/mom-sandbox",
        "usr/local/share/man/man1/mom-sandbox.1",
        "usr/local/share/man/man1/mom.1",
    ];
    assert_eq!(files, expected.map(str::to_owned).into());
    // Not through links that lead nowhere.
    assert!(expected.iter().all(|file| dest.join(file).exists()));
    make("uninstall");
    assert_eq!(installed(), BTreeSet::new());
}

/// In an interactive bash: each line is typed with its tabs, and runs a program that shows its
/// arguments.
#[test]
fn bash_completes_up_to_the_values() {
    let scratch = Scratch::new();
    scratch.write("my data/log", "");
    scratch.write("inputrc", "set enable-bracketed-paste off\n");
    let completion = root().join("src/install/mom.bash");
    let programs = "mom() { printf '[%s]' \"$@\"; echo; }; mom-sandbox() { mom \"$@\"; }";
    let rc = format!("PS1='READY>'; . '{}'\n{programs}\n", completion.display());
    scratch.write("rc", rc);
    let mut shell = Command::new("timeout");
    shell.args(["--foreground", "120"]);
    shell.arg(root().join("tests/pty.sh"));
    shell.args(["bash", "--noprofile", "--rcfile", "rc", "-i"]);
    shell.current_dir(scratch.dir());
    shell.env("INPUTRC", scratch.path("inputrc"));
    shell.env("TERM", "dumb");
    shell.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut shell = shell.spawn().expect("run bash at a terminal");
    let mut typed = shell.stdin.take().unwrap();
    let mut shown = shell.stdout.take().unwrap();
    let mut enter = |line: &str| {
        typed.write_all(line.as_bytes()).unwrap();
        let mut said = Vec::new();
        while !said.ends_with(b"READY>") {
            let mut byte = [0];
            let read = shown.read(&mut byte).unwrap();
            assert_eq!(read, 1, "{line}: {}", text(&said));
            said.extend(byte);
        }
        text(&said)
    };
    enter("");
    for breaks in ["$COMP_WORDBREAKS", "${COMP_WORDBREAKS//[:=]}"] {
        enter(&format!("COMP_WORDBREAKS={breaks}\n"));
        for (line, want) in [
            ("mom --mod\toff\tmy\t", "[--model=offline][my data/]"),
            ("mom --model=anth\tx", "[--model=anthropic/x]"),
            ("mom --model anth\tx", "[--model][anthropic/x]"),
            (
                "mom --sandbox=\tdoc\tx",
                "[--sandbox=docker:mom-sandbox][x]",
            ),
            (
                "mom --sandbox=docker:\tx",
                "[--sandbox=docker:mom-sandbox][x]",
            ),
            (
                "mom --sandbox docker:m\tx",
                "[--sandbox][docker:mom-sandbox][x]",
            ),
            (
                "mom --appr\tch\t--fol\t",
                "[--approve=changes][--follow-threads]",
            ),
            ("mom --usage ./my\\ d\t", "[--usage][./my data/]"),
            ("mom-sandbox cr\tmy\t", "[create][my data/]"),
            ("mom-sandbox rem\t--\t", "[remove][--yes]"),
        ] {
            let said = enter(&format!("{line}\n"));
            assert!(said.lines().any(|said| said == want), "{line}: {said}");
        }
    }
    drop(typed);
    shell.wait().unwrap();
}

#[test]
fn systemd_takes_the_unit_and_finds_little_exposed() {
    let scratch = Scratch::new();
    // The program that it starts must exist for the check.
    let unit = source("src/install/mom.service").replace("@bindir@/mom", "/bin/true");
    // With these systemd lets openat2 fail, and mom does not start (tests/boot.sh).
    for option in ["DynamicUser=", "RestrictSUIDSGID="] {
        assert!(!unit.lines().any(|line| line.starts_with(option)));
    }
    scratch.write("mom.service", unit);
    let path = scratch.path("mom.service");
    // 20 is an exposure of 2.0 of 10; the network is what remains open.
    for args in [
        &["verify", "--man=no"][..],
        &["security", "--offline=true", "--threshold=20"],
    ] {
        let output = Command::new("systemd-analyze")
            .args(args)
            .arg(&path)
            .output();
        let Ok(output) = output else {
            return left_out("systemd-analyze");
        };
        assert!(
            output.status.success(),
            "{args:?}: {}",
            text(&output.stdout)
        );
        assert_eq!(text(&output.stderr), "", "{args:?}");
    }
}
