//! The rows of some tables: saved, restored and compared.

use std::fmt::Write as _;

use crate::driver;
use crate::pool::{Pool, Session};

/// Tables and the rows that they had.
pub(super) struct Tables<'a> {
    pool: &'a dyn Pool,
    tables: Vec<Table>,
}

struct Table {
    name: String,
    /// The columns that can be written, quoted.
    columns: Vec<String>,
    /// As JSON.
    rows: String,
}

/// What tables contain: the number of rows, and a hash for each column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Contents(Vec<TableContents>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct TableContents {
    name: String,
    rows: String,
    /// `None`: two calls without a fault write different values here.
    hashes: Vec<(String, Option<String>)>,
}

impl<'a> Tables<'a> {
    /// Saves the rows of these tables.
    pub(super) async fn save(pool: &'a dyn Pool, names: &[&str]) -> Self {
        let mut tables = Vec::new();
        let session = session(pool).await;
        for name in names {
            let literal = name.replace('\'', "''");
            let columns = format!(
                "SELECT coalesce(string_agg(quote_ident(attname), E'\\n' ORDER BY attnum), '') FROM pg_attribute
                 WHERE attrelid = '{literal}'::regclass AND attnum > 0 AND NOT attisdropped AND attgenerated = ''"
            );
            let columns = ask(&*session, &columns).await;
            let rows = ask(&*session, &format!("SELECT coalesce(json_agg(t), '[]') FROM {name} AS t")).await;
            let columns = columns.lines().map(str::to_owned).collect();
            tables.push(Table { name: (*name).to_owned(), columns, rows });
        }
        Self { pool, tables }
    }

    /// Waits for transactions that have written to the tables, and restores the rows.
    // Below some 10,000 rows this is faster than a new database from a template, for which the call would need a new pool.
    pub(super) async fn restore(&self) {
        let mut sql = format!("BEGIN; {}", self.lock());
        for Table { name, .. } in self.tables.iter().rev() {
            let _ = write!(sql, "DELETE FROM {name}; ");
        }
        for Table { name, columns, rows } in &self.tables {
            let columns = columns.join(", ");
            let _ = write!(
                sql,
                "INSERT INTO {name} ({columns}) OVERRIDING SYSTEM VALUE
                 SELECT {columns} FROM json_populate_recordset(NULL::{name}, $retry_rows${rows}$retry_rows$); "
            );
        }
        run(&*session(self.pool).await, &(sql + "COMMIT")).await;
    }

    /// Waits for transactions that have written to the tables, and reads what they contain.
    pub(super) async fn read(&self) -> Contents {
        let session = session(self.pool).await;
        run(&*session, &format!("BEGIN; {}", self.lock())).await;
        let mut contents = Vec::new();
        for Table { name, columns, .. } in &self.tables {
            let hash = |column: &str| format!(", md5(string_agg({column}::text, ',' ORDER BY {column}::text))");
            let all = format!("ROW({})", columns.join(", "));
            let hashes: String = columns.iter().chain([&all]).map(|column| hash(column)).collect();
            let row = driver::ask(session.client(), &format!("SELECT count(*){hashes} FROM {name}")).await;
            let row = row.unwrap_or_else(|error| panic!("{name}: {error:?}")).expect("an aggregate has a row");
            let text = |index| row.get(index).unwrap_or_default().to_owned();
            let names = columns.iter().map(|column| format!("column {column}")).chain([String::from("rows")]);
            let hashes = names.enumerate().map(|(index, column)| (column, Some(text(index + 1)))).collect();
            contents.push(TableContents { name: name.clone(), rows: text(0), hashes });
        }
        run(&*session, "COMMIT").await;
        Contents(contents)
    }

    fn lock(&self) -> String {
        let names: Vec<&str> = self.tables.iter().map(|table| &*table.name).collect();
        if names.is_empty() { String::new() } else { format!("LOCK TABLE {} IN EXCLUSIVE MODE; ", names.join(", ")) }
    }
}

impl Contents {
    /// Forgets the columns that another call without a fault has filled with other values.
    pub(super) fn without_varying(mut self, other: &Self) -> Self {
        for (table, other) in self.0.iter_mut().zip(&other.0) {
            for ((_, hash), (_, other)) in table.hashes.iter_mut().zip(&other.hashes) {
                if hash != other {
                    *hash = None;
                }
            }
        }
        self
    }

    /// How `found` differs from this, in words.
    pub(super) fn difference(&self, found: &Self) -> Option<String> {
        for (table, found) in self.0.iter().zip(&found.0) {
            let name = &table.name;
            if table.rows != found.rows {
                return Some(format!("table {name} has {} rows instead of {}", found.rows, table.rows));
            }
            for ((column, hash), (_, found)) in table.hashes.iter().zip(&found.hashes) {
                if hash.is_some() && hash != found {
                    return Some(format!("table {name} has other values ({column})"));
                }
            }
        }
        None
    }
}

async fn session(pool: &dyn Pool) -> Box<dyn Session> {
    loop {
        let session = pool.get().await.unwrap_or_else(|error| panic!("no connection from the pool: {error}"));
        // Faults close sessions, and some pools lend these again.
        if !session.client().is_closed() {
            return session;
        }
        session.discard();
    }
}

async fn run(session: &dyn Session, sql: &str) {
    driver::run(session.client(), sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
}

async fn ask(session: &dyn Session, sql: &str) -> String {
    let row = driver::ask(session.client(), sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    row.expect("an aggregate has a row").get(0).unwrap_or_default().to_owned()
}
