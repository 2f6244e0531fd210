//! Replays the committed corpus of the fuzz targets: every input that ever found new code or a fault.

#[path = "fuzz/targets.rs"]
mod targets;

use std::{fs, path::Path};

#[test]
fn the_corpus_finds_no_fault() {
    for &(name, target) in targets::TARGETS {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(name);
        let mut replayed = 0;
        for entry in fs::read_dir(&folder).expect("every target has a corpus") {
            let path = entry.expect("a readable folder").path();
            let input = fs::read(&path).expect("a readable file");
            // The name stands in the output of a failure.
            println!("{}", path.display());
            target(&input);
            replayed += 1;
        }
        assert!(replayed >= 10, "{name} has only {replayed} inputs");
    }
}
