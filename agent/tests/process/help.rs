//! What the program says of itself.

use super::*;

fn help(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_holdfast-agent")).args(arguments).output().unwrap();
    assert!(output.status.success(), "{arguments:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn help_teaches() {
    for (arguments, words) in [
        (vec!["--help"], "EXIT CODE"),
        (vec!["backup", "--help"], "--store-secret ./s3"),
        (vec!["restore", "--help"], "holdfast.receipts"),
        (vec!["copy", "--help"], "begins with holdfast-copy"),
        (vec!["install", "--help"], "/etc/passwd"),
        (vec!["key", "--help"], "passphrase"),
        (vec!["verify", "--help"], "--level decode"),
        (vec!["decrypt", "--help"], "--database orders | pg_restore"),
        (vec!["rekey", "--help"], "rekey each store"),
        (vec!["probe", "--help"], "holdfast-agent probe --store store.yaml"),
        (vec!["keep", "--help"], "--fail-on-removal"),
        (vec!["settle", "--help"], "holdfast\\.dev/task}' > task.json"),
    ] {
        let text = help(&arguments);
        assert!(text.contains(words), "{arguments:?}: {text}");
    }
    let all = help(&["--help"]);
    let (_, commands) = all.split_once("\nCommands:\n").unwrap();
    let commands = commands.lines().take_while(|line| line.starts_with("  "));
    let commands = commands
        .filter_map(|line| line.split_whitespace().next())
        .filter(|name| *name != "help");
    let silent = commands
        .filter(|name| !help(&[*name, "--help"]).contains("EXAMPLE"))
        .collect::<Vec<_>>();
    assert!(silent.is_empty(), "without an example: {silent:?}");
    let output = Command::new(env!("CARGO_BIN_EXE_holdfast-agent"))
        .arg("no-such-command")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(Reason::InvalidSpec.exit_code().into()));
}
