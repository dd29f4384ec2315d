//! Checks that the tests can use the server that `DATABASE_URL` names. `scripts/test` runs it before anything else.

use std::error::Error;
use std::process::ExitCode;
use std::time::Duration;

use tokio_postgres::{Config, NoTls};

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let Err(error) = check().await else { return ExitCode::SUCCESS };
    eprintln!("error: the tests cannot use DATABASE_URL: {error}");
    let mut source = error.source();
    while let Some(error) = source {
        eprintln!("  {error}");
        source = error.source();
    }
    ExitCode::FAILURE
}

async fn check() -> Result<(), Box<dyn Error>> {
    let mut config: Config = std::env::var("DATABASE_URL")?.parse()?;
    config.connect_timeout(Duration::from_secs(10));
    let (client, connection) = config.connect(NoTls).await?;
    tokio::spawn(connection);
    let sql = "SELECT rolname::text, rolsuper, current_setting('server_version_num')::int
               FROM pg_roles WHERE rolname = current_user";
    let row = client.query_one(sql, &[]).await?;
    let (role, is_superuser, version): (String, bool, i32) = (row.get(0), row.get(1), row.get(2));
    if !is_superuser {
        return Err(format!("its role {role} is not a superuser").into());
    }
    if version < 130_000 {
        return Err(format!("it is PostgreSQL {}, but 13 or later is needed", version / 10_000).into());
    }
    Ok(())
}
