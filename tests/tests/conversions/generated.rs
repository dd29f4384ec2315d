//! Code in the shape that clorinde 2 generates from SQL files.

pub(crate) mod client {
    use tokio_postgres::types::{BorrowToSql, ToSql};
    use tokio_postgres::{Client, Error, Row, RowStream, Statement, ToStatement};

    type Params<'p> = [&'p (dyn ToSql + Sync)];

    /// Not sealed. The generated crate implements it for clients and transactions of tokio-postgres and deadpool-postgres.
    pub(crate) trait GenericClient: Send + Sync {
        fn stmt_cache() -> bool {
            false
        }
        fn prepare(&self, query: &str) -> impl Future<Output = Result<Statement, Error>> + Send;
        fn execute<T>(&self, query: &T, params: &Params<'_>) -> impl Future<Output = Result<u64, Error>> + Send
        where
            T: ?Sized + ToStatement + Sync + Send;
        fn query_one<T>(&self, query: &T, params: &Params<'_>) -> impl Future<Output = Result<Row, Error>> + Send
        where
            T: ?Sized + ToStatement + Sync + Send;
        fn query_opt<T>(
            &self,
            query: &T,
            params: &Params<'_>,
        ) -> impl Future<Output = Result<Option<Row>, Error>> + Send
        where
            T: ?Sized + ToStatement + Sync + Send;
        #[expect(dead_code, reason = "the generated queries do not use it either")]
        fn query<T>(&self, query: &T, params: &Params<'_>) -> impl Future<Output = Result<Vec<Row>, Error>> + Send
        where
            T: ?Sized + ToStatement + Sync + Send;
        fn query_raw<T, I>(&self, query: &T, params: I) -> impl Future<Output = Result<RowStream, Error>> + Send
        where
            T: ?Sized + ToStatement + Sync + Send,
            I: IntoIterator + Sync + Send,
            I::IntoIter: ExactSizeIterator,
            I::Item: BorrowToSql;
    }

    impl GenericClient for Client {
        async fn prepare(&self, query: &str) -> Result<Statement, Error> {
            Self::prepare(self, query).await
        }

        async fn execute<T>(&self, query: &T, params: &Params<'_>) -> Result<u64, Error>
        where
            T: ?Sized + ToStatement + Sync + Send,
        {
            Self::execute(self, query, params).await
        }

        async fn query_one<T>(&self, query: &T, params: &Params<'_>) -> Result<Row, Error>
        where
            T: ?Sized + ToStatement + Sync + Send,
        {
            Self::query_one(self, query, params).await
        }

        async fn query_opt<T>(&self, query: &T, params: &Params<'_>) -> Result<Option<Row>, Error>
        where
            T: ?Sized + ToStatement + Sync + Send,
        {
            Self::query_opt(self, query, params).await
        }

        async fn query<T>(&self, query: &T, params: &Params<'_>) -> Result<Vec<Row>, Error>
        where
            T: ?Sized + ToStatement + Sync + Send,
        {
            Self::query(self, query, params).await
        }

        async fn query_raw<T, I>(&self, query: &T, params: I) -> Result<RowStream, Error>
        where
            T: ?Sized + ToStatement + Sync + Send,
            I: IntoIterator + Sync + Send,
            I::IntoIter: ExactSizeIterator,
            I::Item: BorrowToSql,
        {
            Self::query_raw(self, query, params).await
        }
    }
}

pub(crate) mod queries {
    use futures_util::{Stream, StreamExt, TryStreamExt};
    use tokio_postgres::types::ToSql;
    use tokio_postgres::{Error, Row};

    use super::client::GenericClient;

    /// A query with its parameters.
    pub(crate) struct I64Query<'c, 'a, C, T, const N: usize> {
        client: &'c C,
        params: [&'a (dyn ToSql + Sync); N],
        query: &'static str,
        extractor: fn(&Row) -> Result<T, Error>,
    }

    impl<'c, C: GenericClient, T: 'c, const N: usize> I64Query<'c, '_, C, T, N> {
        pub(crate) async fn one(self) -> Result<T, Error> {
            let row = if C::stmt_cache() {
                let cached = self.client.prepare(self.query).await?;
                self.client.query_one(&cached, &self.params).await?
            } else {
                self.client.query_one(self.query, &self.params).await?
            };
            (self.extractor)(&row)
        }

        pub(crate) async fn opt(self) -> Result<Option<T>, Error> {
            let row = if C::stmt_cache() {
                let cached = self.client.prepare(self.query).await?;
                self.client.query_opt(&cached, &self.params).await?
            } else {
                self.client.query_opt(self.query, &self.params).await?
            };
            row.map(|row| (self.extractor)(&row)).transpose()
        }

        pub(crate) async fn all(self) -> Result<Vec<T>, Error> {
            self.iter().await?.try_collect().await
        }

        #[expect(clippy::iter_not_returning_iterator, reason = "clorinde's name for it")]
        pub(crate) async fn iter(self) -> Result<impl Stream<Item = Result<T, Error>> + 'c, Error> {
            let params = self.params.iter().map(|param| *param as &dyn ToSql);
            let rows = if C::stmt_cache() {
                let cached = self.client.prepare(self.query).await?;
                self.client.query_raw(&cached, params).await?
            } else {
                self.client.query_raw(self.query, params).await?
            };
            let extractor = self.extractor;
            Ok(rows.map(move |row| extractor(&row?)))
        }
    }

    pub(crate) struct CentsStmt(&'static str);

    pub(crate) fn cents() -> CentsStmt {
        CentsStmt("SELECT cents FROM accounts WHERE id = $1 FOR UPDATE")
    }

    impl CentsStmt {
        pub(crate) fn bind<'c, 'a, C: GenericClient>(&self, client: &'c C, id: &'a i64) -> I64Query<'c, 'a, C, i64, 1> {
            I64Query { client, params: [id], query: self.0, extractor: |row| row.try_get(0) }
        }
    }

    pub(crate) struct AddStmt(&'static str);

    pub(crate) fn add() -> AddStmt {
        AddStmt("UPDATE accounts SET cents = cents + $1 WHERE id = $2")
    }

    impl AddStmt {
        pub(crate) async fn bind<C: GenericClient>(&self, client: &C, cents: &i64, id: &i64) -> Result<u64, Error> {
            client.execute(self.0, &[cents, id]).await
        }
    }
}
