//! The guide: what the attribute's options mean, and what to expect of a transactional function.
//!
//! - [Options](options): what each option does.
//! - [Writing transactional functions](writing_functions): what a body must tolerate.
//! - [Converting existing code](converting): from a hand-written transaction or another library.
//! - [Coming from other libraries](coming_from): cockroach-go, Spring, EF Core, Django, Rails.
//! - [Choosing an isolation level](isolation): what each level prevents, and what it costs.
//! - [Classes of failures](classes): what is retried, and on which budget.
//! - [Hot rows](hot_rows): many calls that want the same rows.
//! - [Fewer round trips](fewer_round_trips): statements sent without waiting for the reply.
//! - [Overload](overload): retry storms, and how to end them.
//! - [Commit outcomes](unknown_commits): what each result means, and when `COMMIT` gets no reply.
//! - [Operating](operating): statistics, events, spans and metrics, and what to do about them.
//! - [Engines](engines): PostgreSQL, PgBouncer, Citus, CockroachDB, YugabyteDB, Aurora DSQL.
//! - [Testing retries](testing): tests in which every function is retried.
//! - [Fewer surprises](review): a checklist for reviewers.
//! - [Comparison](comparison): beside a hand-written loop and other libraries.
//! - [Limits](limits): what does not work.

/// Includes the pages. The links of a page lead to files, for readers on GitHub; in Markdown the first definition of a link
/// counts, so `links.md` goes before each page and leads to the modules and items.
macro_rules! pages {
    ($($name:ident: $page:literal;)*) => {$(
        #[doc = include_str!("links.md")]
        #[doc = include_str!($page)]
        pub mod $name {}
    )*};
}

pages! {
    options: "../../docs/options.md";
    writing_functions: "../../docs/writing-functions.md";
    converting: "../../docs/converting.md";
    coming_from: "../../docs/coming-from.md";
    isolation: "../../docs/isolation.md";
    classes: "../../docs/classes.md";
    hot_rows: "../../docs/hot-rows.md";
    fewer_round_trips: "../../docs/fewer-round-trips.md";
    overload: "../../docs/overload.md";
    unknown_commits: "../../docs/unknown-commits.md";
    operating: "../../docs/operating.md";
    engines: "../../docs/engines.md";
    testing: "../../docs/testing.md";
    review: "../../docs/review.md";
    comparison: "../../docs/comparison.md";
    limits: "../../docs/limits.md";
}
