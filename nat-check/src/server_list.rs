//! Lists of servers: the files of `--server @FILE` and `--public=FILE`, and the built-in list of public servers. One
//! server a line; blank lines and what follows `#` do not count.

use std::{io::Read, path::Path};

use nat_check_core::resolve::{MalformedQuery, Query};

/// The public servers that are built in.
pub(crate) const PUBLIC: &str = include_str!("../public-servers.txt");
/// Public servers that are asked in a run.
pub(crate) const AT_ONCE: usize = 5;
/// Servers in a list that is asked as a whole, at the most.
const MOST: usize = 64;
/// Longest list that is read.
const LONGEST: u64 = 1 << 20;

/// A list that cannot be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ListError {
    /// No such file, or not allowed.
    #[error("{0}")]
    Unreadable(String),
    /// A line that names no server.
    #[error("line {line}: {reason}")]
    Server {
        /// Its number, from 1.
        line: usize,
        /// What is wrong with it.
        reason: MalformedQuery,
    },
    /// More than one word.
    #[error("line {line}: more than one word; write one server a line")]
    Words {
        /// Its number, from 1.
        line: usize,
    },
    /// Nothing but blank lines and comments.
    #[error("no server in it")]
    Empty,
    /// Longer than anybody can mean.
    #[error("more than {MOST} servers")]
    Long,
}

/// Whether something may stand behind the server in a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Columns {
    /// The server alone.
    One,
    /// Remarks for readers.
    Remarks,
}

/// Reads the text of a file.
pub(crate) fn read(path: &Path) -> Result<String, ListError> {
    let mut text = String::new();
    let file = std::fs::File::open(path).map_err(|error| ListError::Unreadable(error.to_string()))?;
    let read = file.take(LONGEST).read_to_string(&mut text);
    read.map_err(|error| ListError::Unreadable(error.to_string()))?;
    Ok(text)
}

/// The servers of a list, in its order, each once.
pub(crate) fn parse(text: &str, columns: Columns) -> Result<Vec<Query>, ListError> {
    let mut servers: Vec<Query> = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.split('#').next().unwrap_or_default();
        let mut words = line.split_whitespace();
        let Some(server) = words.next() else { continue };
        if columns == Columns::One && words.next().is_some() {
            return Err(ListError::Words { line: number });
        }
        let query = Query::parse(server).map_err(|reason| ListError::Server { line: number, reason })?;
        if !servers.contains(&query) {
            servers.push(query);
        }
    }
    match servers.len() {
        0 => Err(ListError::Empty),
        1..=MOST => Ok(servers),
        _ => Err(ListError::Long),
    }
}

/// Some of them, chosen at random, with different port numbers among them where the list has such.
pub(crate) fn choose(mut servers: Vec<Query>, rng: &mut fastrand::Rng) -> Vec<Query> {
    rng.shuffle(&mut servers);
    let Some(first) = servers.first().and_then(Query::port) else {
        servers.truncate(AT_ONCE);
        return servers;
    };
    if let Some(other) = servers.iter().position(|server| server.port() != Some(first))
        && other >= AT_ONCE
    {
        servers.swap(AT_ONCE - 1, other);
    }
    servers.truncate(AT_ONCE);
    servers
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(servers: &[Query]) -> Vec<&str> {
        servers.iter().map(Query::given).collect()
    }

    #[test]
    fn comments_blank_lines_and_repeats_do_not_count() {
        let text = "# ours\n\na.example\n  b.example:5 # the other\na.example\n";
        assert_eq!(given(&parse(text, Columns::One).unwrap()), ["a.example", "b.example:5"]);
    }

    #[test]
    fn a_mistake_is_named_with_its_line() {
        let refused = |text, columns| parse(text, columns).unwrap_err().to_string();
        let port = refused("a.example\n\nb.example:0\n", Columns::One);
        assert_eq!(port, "line 3: `0` is not a port (1 to 65535)");
        assert!(refused("a.example b.example", Columns::One).starts_with("line 1: more than one word"));
        assert_eq!(refused("# nothing\n", Columns::Remarks), "no server in it");
        let long: String = (0..65).map(|n| format!("s{n}.example\n")).collect();
        assert_eq!(refused(&long, Columns::One), "more than 64 servers");
        assert!(read(Path::new("/nonexistent/list")).is_err());
    }

    #[test]
    fn the_built_in_list_is_sound_and_says_what_is_known_of_each() {
        let servers = parse(PUBLIC, Columns::Remarks).unwrap();
        assert!(servers.len() >= 2 * AT_ONCE);
        assert!(servers.iter().all(|server| server.port().is_some() && server.literal().is_none()));
        for line in PUBLIC.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
            let words: Vec<&str> = line.split_whitespace().collect();
            let families = |word: &&str| ["ipv4", "ipv6"].contains(word);
            assert!(words.len() >= 3 && words[1..words.len() - 1].iter().all(families), "{line}");
        }
    }

    #[test]
    fn a_choice_has_more_than_one_port_number() {
        let all = parse(PUBLIC, Columns::Remarks).unwrap();
        let mut first = std::collections::BTreeSet::new();
        for seed in 0..500 {
            let chosen = choose(all.clone(), &mut fastrand::Rng::with_seed(seed));
            assert_eq!(chosen.len(), AT_ONCE);
            first.insert(chosen[0].given().to_owned());
            assert!(chosen.iter().any(|server| server.port() != chosen[0].port()), "{chosen:?}");
        }
        assert_eq!(first.len(), all.len(), "each has its turn");
        let few = parse("a.example\nb.example", Columns::One).unwrap();
        assert_eq!(choose(few, &mut fastrand::Rng::with_seed(1)).len(), 2);
    }
}
