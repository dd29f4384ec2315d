//! A statement whose parameters are encoded, so that it borrows nothing.

use std::error::Error as StdError;
use std::pin::pin;
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::{Bytes, BytesMut};
use tokio_postgres::types::{Format, IsNull, ToSql, Type};
use tokio_postgres::{Client, Error, Statement};

/// A statement and its encoded parameters.
pub(crate) enum Request {
    Prepared(Statement, Vec<Encoded>),
    Typed(String, Vec<(Encoded, Type)>),
}

impl Request {
    /// Encodes the parameters of a prepared statement.
    ///
    /// # Errors
    /// The driver's, if there is a wrong number of parameters or one of them cannot be encoded.
    pub(crate) fn prepared(
        client: &Client,
        statement: &Statement,
        params: &[&(dyn ToSql + Sync)],
    ) -> Result<Self, Error> {
        let mut buffer = BytesMut::new();
        // If there are too few types, the parameters without one are NULL: the driver only counts them then.
        let types = statement.params().iter().map(Some).chain(std::iter::repeat(None));
        let encode = |(param, ty): (&&(dyn ToSql + Sync), Option<&Type>)| match ty {
            Some(ty) => Encoded::new(*param, ty, &mut buffer),
            None => Encoded { format: Format::Binary, value: Value::Null },
        };
        let encoded: Vec<_> = params.iter().zip(types).map(encode).collect();
        if params.len() != statement.params().len() || encoded.iter().any(Encoded::has_failed) {
            return Err(refusal(client.execute_raw(statement, encoded)));
        }
        Ok(Self::Prepared(statement.clone(), encoded))
    }

    /// Encodes the parameters of a statement that states their types.
    ///
    /// # Errors
    /// The driver's, if a parameter cannot be encoded.
    pub(crate) fn typed(client: &Client, sql: &str, params: &[(&(dyn ToSql + Sync), Type)]) -> Result<Self, Error> {
        let mut buffer = BytesMut::new();
        let encode = |(param, ty): &(&(dyn ToSql + Sync), Type)| (Encoded::new(*param, ty, &mut buffer), ty.clone());
        let encoded: Vec<_> = params.iter().map(encode).collect();
        if encoded.iter().any(|(param, _)| param.has_failed()) {
            return Err(refusal(client.execute_typed(sql, &by_reference(&encoded))));
        }
        Ok(Self::Typed(sql.to_owned(), encoded))
    }

    pub(crate) fn has_params(&self) -> bool {
        match self {
            Self::Prepared(_, params) => !params.is_empty(),
            Self::Typed(_, params) => !params.is_empty(),
        }
    }

    /// Runs it, and returns how many rows it affected. It leaves at the first poll.
    pub(crate) async fn execute(self, client: &Client) -> Result<u64, Error> {
        match self {
            Self::Prepared(statement, params) => client.execute_raw(&statement, params).await,
            Self::Typed(sql, params) => client.execute_typed(&sql, &by_reference(&params)).await,
        }
    }
}

fn by_reference(params: &[(Encoded, Type)]) -> Vec<(&(dyn ToSql + Sync), Type)> {
    params.iter().map(|(param, ty)| (param as _, ty.clone())).collect()
}

/// The driver's error for a statement that it refuses before it sends anything. Only the driver can make its errors.
fn refusal(execute: impl Future<Output = Result<u64, Error>>) -> Error {
    match pin!(execute).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(Err(error)) => error,
        _ => unreachable!("the driver encodes the parameters before it sends the statement"),
    }
}

/// An encoded parameter.
#[derive(Debug)]
pub(crate) struct Encoded {
    format: Format,
    value: Value,
}

#[derive(Debug)]
enum Value {
    Null,
    Bytes(Bytes),
    /// Why it could not be encoded, until the driver asks for it.
    Failed(Mutex<Option<EncodeError>>),
}

type EncodeError = Box<dyn StdError + Sync + Send>;

impl Encoded {
    fn new(param: &dyn ToSql, ty: &Type, buffer: &mut BytesMut) -> Self {
        let format = param.encode_format(ty);
        let result = param.to_sql_checked(ty, buffer);
        let bytes = buffer.split().freeze();
        let value = match result {
            Ok(IsNull::No) => Value::Bytes(bytes),
            Ok(IsNull::Yes) => Value::Null,
            Err(error) => Value::Failed(Mutex::new(Some(error))),
        };
        Self { format, value }
    }

    fn has_failed(&self) -> bool {
        matches!(self.value, Value::Failed(_))
    }
}

impl ToSql for Encoded {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, EncodeError> {
        match &self.value {
            Value::Null => Ok(IsNull::Yes),
            Value::Bytes(bytes) => {
                out.extend_from_slice(bytes);
                Ok(IsNull::No)
            }
            Value::Failed(error) => {
                let error = error.lock().unwrap_or_else(PoisonError::into_inner).take();
                Err(error.expect("the driver encodes a parameter once"))
            }
        }
    }

    /// The type was checked when the value was encoded.
    fn accepts(_: &Type) -> bool {
        true
    }

    fn to_sql_checked(&self, ty: &Type, out: &mut BytesMut) -> Result<IsNull, EncodeError> {
        self.to_sql(ty, out)
    }

    fn encode_format(&self, _: &Type) -> Format {
        self.format
    }
}
