//! What identifies a transaction, and its text form.

use std::fmt;
use std::str::FromStr;

/// Identifies a transaction whose outcome is unknown. [`Identity::resolve`] looks the outcome up.
///
/// It can be stored and read back, so that another process can ask, even after this one has crashed: it has a text form
/// ([`Display`](fmt::Display) and [`FromStr`]), and with the feature `serde` it is serialized as that text.
///
/// ```
/// use retry_runtime::Identity;
///
/// let stored = "token:67e55044-10b1-426f-9247-bb680e5fe0c8";
/// let identity: Identity = stored.parse()?;
/// assert_eq!(identity.token().as_deref(), Some("67e55044-10b1-426f-9247-bb680e5fe0c8"));
/// assert_eq!(identity.to_string(), stored);
/// # Ok::<(), retry_runtime::ParseIdentityError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Identity {
    pub(crate) key: Key,
    /// Whether its locks were released before the flush: if it is committed, that may not be durable yet.
    pub(crate) early_release: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Key {
    /// The server's own id.
    Transaction(Transaction),
    /// The token written with the commit.
    Token(Token),
}

/// A transaction's id, and the server that assigned it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Transaction {
    pub(crate) xid: u64,
    pub(crate) pid: i32,
    pub(crate) incarnation: Incarnation,
}

/// A server between two crashes or failovers.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Incarnation {
    /// The first eight digits of a WAL file's name.
    pub(crate) timeline: String,
    /// When the statistics were last reset, in microseconds since 1970.
    pub(crate) stats_reset: String,
    /// The cluster's system identifier.
    pub(crate) system: String,
}

/// A random key in the table `transactional.commits`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Token(pub(crate) u128);

impl Identity {
    /// The transaction's id (the server's `xid8`), with `unknown_commit = "resolve"`.
    #[must_use]
    pub fn xid(&self) -> Option<u64> {
        match &self.key {
            Key::Transaction(transaction) => Some(transaction.xid),
            Key::Token(_) => None,
        }
    }

    /// The key in `transactional.commits`, as the text of a `uuid`, with `unknown_commit = "token"`.
    #[must_use]
    pub fn token(&self) -> Option<String> {
        match &self.key {
            Key::Transaction(_) => None,
            Key::Token(token) => Some(token.to_string()),
        }
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hex = format!("{:032x}", self.0);
        write!(f, "{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
    }
}

/// After early release, what the text begins with.
const EARLY_RELEASE: &str = "early_release:";

/// `token:UUID`, or `xid:XID/PID/TIMELINE/STATS_RESET/SYSTEM`.
impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.early_release { EARLY_RELEASE } else { "" })?;
        match &self.key {
            Key::Token(token) => write!(f, "token:{token}"),
            Key::Transaction(Transaction { xid, pid, incarnation }) => {
                let Incarnation { timeline, stats_reset, system } = incarnation;
                write!(f, "xid:{xid}/{pid}/{timeline}/{stats_reset}/{system}")
            }
        }
    }
}

/// A text that is not an [`Identity`].
///
/// ```
/// use retry_runtime::Identity;
///
/// assert!("xid:7".parse::<Identity>().is_err());
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParseIdentityError(());

impl fmt::Display for ParseIdentityError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a transaction's identity: expected `token:UUID` or `xid:XID/PID/TIMELINE/STATS_RESET/SYSTEM`")
    }
}

impl std::error::Error for ParseIdentityError {}

impl FromStr for Identity {
    type Err = ParseIdentityError;

    /// Reads what [`Display`](fmt::Display) writes.
    fn from_str(text: &str) -> Result<Self, ParseIdentityError> {
        let (early_release, text) = text.strip_prefix(EARLY_RELEASE).map_or((false, text), |text| (true, text));
        let key = match text.split_once(':') {
            Some(("token", token)) => token_of(token).map(Key::Token),
            Some(("xid", fields)) => transaction_of(fields).map(Key::Transaction),
            _ => None,
        };
        key.map(|key| Self { key, early_release }).ok_or(ParseIdentityError(()))
    }
}

fn token_of(text: &str) -> Option<Token> {
    let lengths = text.split('-').map(str::len);
    if !lengths.eq([8, 4, 4, 4, 12]) || text.bytes().any(|byte| byte != b'-' && !byte.is_ascii_hexdigit()) {
        return None;
    }
    u128::from_str_radix(&text.replace('-', ""), 16).ok().map(Token)
}

fn transaction_of(text: &str) -> Option<Transaction> {
    let mut fields = text.split('/');
    let mut next = || fields.next().filter(|field| !field.is_empty());
    let (xid, pid) = (next()?.parse().ok()?, next()?.parse().ok()?);
    let incarnation =
        Incarnation { timeline: next()?.to_owned(), stats_reset: next()?.to_owned(), system: next()?.to_owned() };
    fields.next().is_none().then_some(Transaction { xid, pid, incarnation })
}

#[cfg(feature = "serde")]
impl serde::Serialize for Identity {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(feature = "serde")]
impl<'de> serde::Deserialize<'de> for Identity {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identities_are_read_back_as_they_were_written() {
        for text in [
            "token:00000000-0000-0000-0000-000000000007",
            "token:67e55044-10b1-426f-9247-bb680e5fe0c8",
            "xid:18446744073709551615/4711/00000001/1700000000000000/7300000000000000000",
            "early_release:token:67e55044-10b1-426f-9247-bb680e5fe0c8",
            "early_release:xid:7/4711/00000001/17/73",
        ] {
            let identity: Identity = text.parse().expect(text);
            assert_eq!(identity.to_string(), text);
        }
    }

    #[cfg(feature = "serde")]
    #[test]
    fn serde_uses_the_text() {
        let json = "\"xid:7/4711/00000001/17/73\"";
        let identity: Identity = serde_json::from_str(json).expect("an identity");
        assert_eq!(serde_json::to_string(&identity).expect("a string"), json);
        assert!(serde_json::from_str::<Identity>("\"xid:7\"").is_err());
    }

    #[test]
    fn other_texts_are_refused() {
        for text in [
            "",
            "token:",
            "token:67e55044-10b1-426f-9247-bb680e5fe0c",
            "token:67e5504410b1426f9247bb680e5fe0c8",
            "token:+7e55044-10b1-426f-9247-bb680e5fe0c8",
            "xid:7/4711/00000001/17",
            "xid:7/4711/00000001//73",
            "xid:7/4711/00000001/17/73/9",
            "xid:-7/4711/00000001/17/73",
            "7/4711/00000001/17/73",
            "early_release:",
            "early_release:early_release:xid:7/4711/00000001/17/73",
        ] {
            assert!(text.parse::<Identity>().is_err(), "{text:?}");
        }
    }
}
