//! Finds the workspace's programs beside the running test, after cargo has brought them up to date.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

use crate::LabError;

/// The path of one of the workspace's programs, built from the current source. Cargo is asked once per process.
///
/// # Errors
/// When it does not build.
pub fn binary(name: &str) -> Result<PathBuf, LabError> {
    static BUILT: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let directory = BUILT.get_or_init(build).as_ref().map_err(|message| LabError::Setup {
        operation: "building the programs under test".into(),
        message: message.clone(),
    })?;
    Ok(directory.join(name))
}

/// Builds with the profile of the running test and into the same directory, so that nearly everything is built already.
fn build() -> Result<PathBuf, String> {
    let test = env::current_exe().map_err(|e| e.to_string())?;
    let directory = test.ancestors().nth(2).ok_or("the test is in no target directory")?;
    let target = directory.parent().ok_or("the test is in no target directory")?;
    let profile = match directory.file_name().and_then(|name| name.to_str()) {
        Some("debug") | None => "dev",
        Some(name) => name,
    };
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("../Cargo.toml");
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    // Build scripts that read the variables which cargo sets for a test (ring's does) would see a change, and half of the
    // dependencies would be built again.
    for (name, _) in env::vars_os() {
        let text = name.to_string_lossy();
        if ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_", "CARGO_CRATE_"].iter().any(|p| text.starts_with(p))
        {
            cargo.env_remove(&name);
        }
    }
    // The whole workspace, so that cargo unifies features as it did for this test and builds nothing twice.
    let output = cargo
        .args(["build", "--quiet", "--workspace", "--bins", "--profile", profile, "--manifest-path"])
        .arg(manifest)
        .arg("--target-dir")
        .arg(target)
        .output()
        .map_err(|e| format!("running cargo: {e}"))?;
    if output.status.success() {
        Ok(directory.to_owned())
    } else {
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }
}
