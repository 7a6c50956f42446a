//! What `make install` and `make install-service` put next to the program: files that match the
//! command line, and a unit that systemd accepts and calls well isolated.

use std::fs;
use std::process::Command;

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
