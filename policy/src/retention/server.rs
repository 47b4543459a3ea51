//! Copies of several servers under one source's name: a database that was created again, or a source that points at another one.

use std::collections::HashSet;

use holdfast_crds::{document::Acceptance, shortened};

use super::facts::SourceFacts;

/// Servers that the source had before the one that its newest copy is of, as nobody accepted.
#[derive(Debug, Default)]
pub struct Former<'a> {
    /// The newest first.
    pub servers: Vec<&'a str>,
    /// What is told of the newest of them.
    pub told: Option<String>,
}

/// By the good full copies (positions, the newest first), of which each `count` newest of such a server stay. A copy that does not tell its
/// server says nothing: it is no change.
pub fn former<'a>(facts: &'a SourceFacts, good: &[usize], count: usize) -> Former<'a> {
    let server = |position: &usize| facts.copies[*position].server.as_deref();
    let mut former = Former::default();
    let Some(is) = good.iter().find_map(server).filter(|_| facts.retired.is_none()) else {
        return former;
    };
    let mut known = HashSet::from([is]);
    // What gave way to one that gave way itself gave way, too.
    loop {
        let before = known.len();
        for accepted in &facts.accepted {
            if let Acceptance::Server { was, is } = accepted
                && known.contains(is.as_str())
            {
                known.insert(was);
            }
        }
        if known.len() == before {
            break;
        }
    }
    for (place, position) in good.iter().enumerate() {
        let Some(was) = server(position).filter(|was| known.insert(was)) else {
            continue;
        };
        former.servers.push(was);
        // The newest that tells its server is not of this one, so that another comes after it.
        let (last, since) = (&facts.copies[*position].run, &facts.copies[good[place - 1]].run);
        former.told.get_or_insert_with(|| {
            let told = format!(
                "copies up to {last} are of server {was}, those since {since} of {is}: created again, upgraded, or the wrong database. The newest {count} good ones of {was} stay until that is accepted: spec.accept: [{{server: {{was: {was:?}, is: {is:?}}}, by: your user name, reason: why}}]"
            );
            shortened(&told, 512)
        });
    }
    former
}
