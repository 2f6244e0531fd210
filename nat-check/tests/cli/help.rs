//! Help, manual pages, schemas: what the program says of itself.

use serde_json::Value;

use crate::run;

#[test]
fn help_is_what_was_reviewed() {
    let (code, out, err) = run("-h");
    assert_eq!((code, err.as_str()), (0, ""));
    insta::assert_snapshot!("short help", out);
    insta::assert_snapshot!("long help", run("--help").1);
    insta::assert_snapshot!("punch help", run("punch --help").1);
    insta::assert_snapshot!("map help", run("map --help").1);
    insta::assert_snapshot!("room help", run("room --help").1);
}

#[test]
fn help_can_be_asked_for_in_any_way() {
    assert_eq!(run("help punch"), run("punch --help"));
    assert_eq!(run("help"), run("--help"));
    let (code, out, err) = run("--version");
    assert_eq!((code, out, err.as_str()), (0, format!("nat-check {}\n", env!("CARGO_PKG_VERSION")), ""));
}

#[test]
fn help_fits_a_line_of_100_columns_and_is_plain_ascii() {
    for line in ["-h", "--help", "punch -h", "punch --help", "map -h", "map --help", "room -h", "room --help"]
    {
        let (_, out, _) = run(line);
        assert!(out.is_ascii(), "{line}: {out}");
        assert!(out.lines().all(|l| l.len() <= 100), "{line}: {out}");
    }
}

/// groff is what `man` uses; it names what it does not understand.
#[cfg(unix)]
#[test]
fn the_manual_pages_are_understood_by_groff() {
    let groff = ["groff", "-man", "-Tascii", "-ww", "-z"];
    if std::process::Command::new(groff[0]).arg("--version").output().is_err() {
        assert!(std::env::var_os("LAB").is_none_or(|lab| lab != "required"), "groff is missing");
        eprintln!("SKIPPED: groff is missing");
        return;
    }
    for page in ["man", "punch-man", "map-man", "room-man"] {
        let (_, text, _) = run(&format!("--generate {page}"));
        let file = std::env::temp_dir().join(format!("nat-check-{}-{page}.1", std::process::id()));
        std::fs::write(&file, &text).unwrap();
        let told = std::process::Command::new(groff[0]).args(&groff[1..]).arg(&file).output().unwrap();
        std::fs::remove_file(&file).unwrap();
        assert!(told.stderr.is_empty(), "{}", String::from_utf8_lossy(&told.stderr));
    }
}

#[test]
fn the_committed_schemas_are_current() {
    let report = include_str!("../../schema/report.schema.json");
    let punch = include_str!("../../schema/punch.schema.json");
    let room = include_str!("../../schema/room.schema.json");
    let all = [("schema", "report", report), ("punch-schema", "punch", punch), ("room-schema", "room", room)];
    for (what, file, committed) in all {
        let generated: Value = serde_json::from_str(&run(&format!("--generate {what}")).1).unwrap();
        let committed: Value = serde_json::from_str(committed).unwrap();
        let advice =
            format!("cargo run -p nat-check -- --generate {what} > nat-check/schema/{file}.schema.json");
        assert_eq!(committed, generated, "run: {advice}");
    }
}
