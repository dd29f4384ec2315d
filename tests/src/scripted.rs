//! A scripted server, for engines that cannot be installed here and for simulated networks. It speaks PostgreSQL's
//! protocol, knows whether a transaction is open, runs nothing, and records what it receives. Statements have no
//! parameters.
//!
//! What a real server can do is tested on a real server.

use std::fmt::Debug;
use std::mem;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use futures_util::{Sink, SinkExt, StreamExt, stream};
use pgwire::api::auth::noop::NoopStartupHandler;
use pgwire::api::portal::Portal;
use pgwire::api::query::{
    ExtendedQueryHandler, SimpleQueryHandler, send_execution_response, send_query_response, send_ready_for_query,
};
use pgwire::api::results::{
    DataRowEncoder, DescribePortalResponse, DescribeStatementResponse, FieldFormat, FieldInfo, QueryResponse, Response,
    Tag,
};
use pgwire::api::stmt::{QueryParser, StoredStatement};
use pgwire::api::{ClientInfo, ClientPortalStore, DefaultClient, NoopHandler, PgWireConnectionState, Type};
use pgwire::error::{ErrorInfo, PgWireError, PgWireResult};
use pgwire::messages::PgWireBackendMessage;
use pgwire::messages::response::{EmptyQueryResponse, ErrorResponse, TransactionStatus};
use pgwire::messages::simplequery::Query;
use pgwire::tokio::server::{PgWireMessageServerCodec, process_error, process_message};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio_postgres::Config;
use tokio_util::codec::Framed;

/// What the server replies to a statement.
#[derive(Clone, Copy, Debug)]
pub enum Reply {
    /// One row of texts. To a statement that is not a simple query, the driver expects one column.
    Row(&'static [&'static str]),
    /// Success, with this command tag.
    Done(&'static str),
    /// An error. A FATAL one closes the connection.
    Error {
        /// `ERROR` or `FATAL`.
        severity: &'static str,
        /// The SQLSTATE.
        code: &'static str,
        /// The text.
        message: &'static str,
        /// The function of the server's source that raised it.
        routine: Option<&'static str>,
    },
    /// Closes the connection without a reply.
    Close,
}

/// An ERROR that names no function of the server's source.
#[must_use]
pub fn error(code: &'static str, message: &'static str) -> Reply {
    Reply::Error { severity: "ERROR", code, message, routine: None }
}

/// A scripted server. It stops accepting connections when its runtime ends.
///
/// By default a `SELECT` returns the row `1`, a statement that writes affects one row, and each other succeeds. In an aborted transaction, statements fail
/// with 25P02, and `COMMIT` rolls back. An error in reply to `COMMIT` ends the transaction.
#[derive(Debug)]
pub struct Scripted {
    config: Config,
    script: Arc<Script>,
}

#[derive(Debug, Default)]
struct Script {
    rules: Mutex<Vec<Rule>>,
    received: Mutex<Vec<String>>,
}

#[derive(Debug)]
struct Rule {
    prefix: &'static str,
    reply: Reply,
    once: bool,
}

impl Scripted {
    /// Starts a server without rules.
    ///
    /// # Panics
    /// If localhost has no free port.
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let mut server = Self::without_listener();
        server.config.host("127.0.0.1").port(listener.local_addr().expect("an address").port());
        let script = server.script.clone();
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                tokio::spawn(serve(script.clone(), socket));
            }
        });
        server
    }

    /// A server without rules that listens nowhere: for [`Scripted::serve`].
    #[must_use]
    pub fn without_listener() -> Self {
        let mut config = Config::new();
        config.user("test");
        Self { config, script: Arc::default() }
    }

    /// Serves one connection, over any stream, until it ends.
    pub async fn serve(&self, stream: impl AsyncRead + AsyncWrite + Unpin + Send + Sync + 'static) {
        serve(self.script.clone(), stream).await;
    }

    /// How to connect to it.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Adds a rule for the next statement that begins with `prefix`. Of several rules the first applies.
    pub fn once(&self, prefix: &'static str, reply: Reply) {
        lock(&self.script.rules).push(Rule { prefix, reply, once: true });
    }

    /// Adds a rule for each statement that begins with `prefix`.
    pub fn always(&self, prefix: &'static str, reply: Reply) {
        lock(&self.script.rules).push(Rule { prefix, reply, once: false });
    }

    /// The messages that it has received since the last call. Statements of one message are together. A statement that is
    /// prepared, but not executed at once, is recorded as `prepare: SQL`.
    #[must_use]
    pub fn received(&self) -> Vec<String> {
        mem::take(&mut lock(&self.script.received))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Script {
    fn record(&self, message: String) {
        let mut received = lock(&self.received);
        if received.last().is_some_and(|last| *last == prepared(&message)) {
            received.pop();
        }
        received.push(message);
    }

    /// The reply of the first rule that applies.
    fn rule(&self, sql: &str) -> Option<Reply> {
        let mut rules = lock(&self.rules);
        let at = rules.iter().position(|rule| sql.starts_with(rule.prefix))?;
        Some(if rules[at].once { rules.remove(at).reply } else { rules[at].reply })
    }
}

/// One connection.
struct Session {
    script: Arc<Script>,
    close: Notify,
}

impl Session {
    /// Runs a statement. An error aborts the transaction.
    async fn run(&self, sql: &str, status: &mut TransactionStatus) -> Result<Response, Box<ErrorInfo>> {
        use TransactionStatus::{Error, Idle, Transaction};
        let is = |word: &str| sql.starts_with(word);
        let (before, ends) = (*status, is("COMMIT") || (is("ROLLBACK") && !is("ROLLBACK TO")));
        *status = match before {
            _ if ends => Idle,
            Idle if is("BEGIN") => Transaction,
            Error if is("ROLLBACK TO") => Transaction,
            Error => return Err(info("ERROR", "25P02", "current transaction is aborted", None)),
            before => before,
        };
        match self.script.rule(sql) {
            Some(Reply::Row(values)) => Ok(row(values)),
            Some(Reply::Done(tag)) => Ok(Response::Execution(Tag::new(tag))),
            Some(Reply::Error { severity, code, message, routine }) => {
                *status = status.to_error_state();
                Err(info(severity, code, message, routine))
            }
            Some(Reply::Close) => {
                self.close.notify_one();
                std::future::pending().await
            }
            None if is("SELECT") => Ok(row(&["1"])),
            None if ends && before == Error => Ok(Response::Execution(Tag::new("ROLLBACK"))),
            None => Ok(Response::Execution(tag(sql))),
        }
    }
}

/// How a statement is recorded that is prepared, but not executed at once.
fn prepared(sql: &str) -> String {
    format!("prepare: {sql}")
}

/// The statements of a message. None of their literals may have a semicolon.
fn statements(message: &str) -> Vec<&str> {
    message.split(';').map(str::trim).filter(|sql| !sql.is_empty()).collect()
}

fn info(severity: &str, code: &str, message: &str, routine: Option<&str>) -> Box<ErrorInfo> {
    let mut info = ErrorInfo::new(severity.to_owned(), code.to_owned(), message.to_owned());
    info.routine = routine.map(str::to_owned);
    Box::new(info)
}

fn tag(sql: &str) -> Tag {
    match sql.split(' ').next().unwrap_or_default() {
        "INSERT" => Tag::new("INSERT 0 1"),
        word @ ("UPDATE" | "DELETE") => Tag::new(word).with_rows(1),
        word => Tag::new(word),
    }
}

fn columns(count: usize) -> Vec<FieldInfo> {
    vec![FieldInfo::new("value".to_owned(), None, None, Type::TEXT, FieldFormat::Text); count]
}

fn row(values: &[&str]) -> Response {
    let columns = Arc::new(columns(values.len()));
    let mut row = DataRowEncoder::new(columns.clone());
    for value in values {
        row.encode_field(value).expect("a text");
    }
    Response::Query(QueryResponse::new(columns, stream::iter([row.finish()])))
}

#[async_trait]
impl SimpleQueryHandler for Session {
    // Not `do_query`: pgwire would not know `ROLLBACK TO`, and its errors lack the severity that is not translated.
    async fn on_query<C>(&self, client: &mut C, query: Query) -> PgWireResult<()>
    where
        C: ClientInfo + ClientPortalStore + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::Error: Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        self.script.record(query.query.clone());
        let mut status = client.transaction_status();
        let statements = statements(&query.query);
        if statements.is_empty() {
            client.feed(PgWireBackendMessage::EmptyQueryResponse(EmptyQueryResponse::new())).await?;
        }
        for sql in statements {
            match self.run(sql, &mut status).await {
                Ok(Response::Query(mut rows)) => send_query_response(client, &mut rows, true).await?,
                Ok(Response::Execution(tag)) => send_execution_response(client, tag).await?,
                Ok(response) => unreachable!("{response:?}"),
                Err(info) if info.is_fatal() => return Err(PgWireError::UserError(info)),
                Err(info) => {
                    let severity = (b'V', info.severity.clone());
                    let mut error = ErrorResponse::from(*info);
                    error.fields.push(severity);
                    client.feed(PgWireBackendMessage::ErrorResponse(error)).await?;
                    break;
                }
            }
        }
        client.set_transaction_status(status);
        send_ready_for_query(client, status).await
    }

    async fn do_query<C>(&self, _: &mut C, _: &str) -> PgWireResult<Vec<Response>>
    where
        C: Send,
    {
        unreachable!("on_query does not call it")
    }
}

#[async_trait]
impl ExtendedQueryHandler for Session {
    type Statement = String;
    type QueryParser = Script;

    fn query_parser(&self) -> Arc<Script> {
        self.script.clone()
    }

    async fn do_describe_statement<C>(
        &self,
        _: &mut C,
        statement: &StoredStatement<String>,
    ) -> PgWireResult<DescribeStatementResponse>
    where
        C: Send,
    {
        Ok(DescribeStatementResponse::new(Vec::new(), columns_of(&statement.statement)))
    }

    async fn do_describe_portal<C>(&self, _: &mut C, portal: &Portal<String>) -> PgWireResult<DescribePortalResponse>
    where
        C: Send,
    {
        Ok(DescribePortalResponse::new(columns_of(&portal.statement.statement)))
    }

    async fn do_query<C>(&self, client: &mut C, portal: &Portal<String>, _: usize) -> PgWireResult<Response>
    where
        C: ClientInfo + Send,
    {
        let sql = &portal.statement.statement;
        self.script.record(sql.clone());
        let mut status = client.transaction_status();
        self.run(sql, &mut status).await.map_err(PgWireError::UserError)
    }
}

#[async_trait]
impl QueryParser for Script {
    type Statement = String;

    async fn parse_sql<C>(&self, _: &C, sql: &str, _: &[Option<Type>]) -> PgWireResult<String>
    where
        C: Sync,
    {
        self.record(prepared(sql));
        Ok(sql.to_owned())
    }
}

fn columns_of(sql: &str) -> Vec<FieldInfo> {
    if sql.starts_with("SELECT") { columns(1) } else { Vec::new() }
}

impl NoopStartupHandler for Session {}

async fn serve(script: Arc<Script>, stream: impl AsyncRead + AsyncWrite + Unpin + Send + Sync + 'static) {
    let session = Arc::new(Session { script, close: Notify::new() });
    tokio::select! {
        () = process(stream, &session) => {}
        () = session.close.notified() => {}
    }
}

/// Not `process_socket`: it takes no other stream than tokio's.
async fn process(stream: impl AsyncRead + AsyncWrite + Unpin + Send + Sync + 'static, session: &Arc<Session>) {
    let client = DefaultClient::new(SocketAddr::from(([0, 0, 0, 0], 0)), false);
    let mut stream = Framed::new(stream, PgWireMessageServerCodec::new(client));
    stream.set_state(PgWireConnectionState::AwaitingStartup);
    while let Some(Ok(message)) = stream.next().await {
        let is_extended = message.is_extended_query();
        let [startup, simple, extended] = [(); 3].map(|()| session.clone());
        let [copy, cancel] = [(); 2].map(|()| Arc::new(NoopHandler));
        let done = process_message(message, &mut stream, startup, simple, extended, copy, cancel).await;
        if let Err(error) = done {
            if process_error(&mut stream, error, is_extended).await.is_err() {
                break;
            }
        }
    }
}
