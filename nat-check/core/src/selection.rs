//! Which address families and which measurements a run covers.

use std::net::IpAddr;

/// The IP families of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Families {
    /// Whether IPv4 is tested.
    pub v4: bool,
    /// Whether IPv6 is tested.
    pub v6: bool,
}

/// The tests of a run, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Selection {
    /// All that run without being asked for.
    #[default]
    Default,
    /// These, and what they build on.
    Only(Vec<String>),
    /// All but these.
    Except(Vec<String>),
}

impl Selection {
    /// Whether the test of this name is to run, `by_default` saying whether it does so without being asked for.
    /// What a wanted test builds on is the engine's business.
    #[must_use]
    pub fn wants(&self, test: &str, by_default: bool) -> bool {
        match self {
            Self::Default => by_default,
            Self::Only(names) => names.iter().any(|name| name == test),
            Self::Except(names) => by_default && names.iter().all(|name| name != test),
        }
    }
}

impl Selection {
    /// Whether this test was named as one that is not to run.
    #[must_use]
    pub fn excludes(&self, test: &str) -> bool {
        matches!(self, Self::Except(names) if names.iter().any(|name| name == test))
    }
}

impl Families {
    /// Whether addresses like this one are wanted.
    #[must_use]
    pub fn contain(self, ip: IpAddr) -> bool {
        if ip.is_ipv4() { self.v4 } else { self.v6 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_selection_wants_what_it_says() {
        let names = vec!["hairpin".to_owned()];
        assert!(Selection::Default.wants("hairpin", true) && !Selection::Default.wants("hairpin", false));
        assert!(Selection::Only(names.clone()).wants("hairpin", false));
        assert!(!Selection::Only(names.clone()).wants("mapping", true));
        assert!(!Selection::Except(names.clone()).wants("hairpin", true));
        assert!(!Selection::Except(names).wants("lifetime", false));
    }
}
