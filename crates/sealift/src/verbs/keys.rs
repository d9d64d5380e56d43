//! `sealift keys`.

use crate::{
    report::Report,
    shell::Shell,
    text::{Paint, Style, Table},
};
use domain::Name;
use engine::{Error, Result, keyring};

/// Make and list the keys that sign releases and ledger entries
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  sealift keys new\n  sealift keys list")]
pub(crate) struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Make an Ed25519 key: the private half for this user only, the public half for the repository
    #[command(
        after_help = "Example:\n  sealift keys new\n  sealift keys new release && git add deploy/keys/release.pub"
    )]
    New {
        /// Its name; without it that of [signing] key
        #[arg(value_name = "NAME")]
        name: Option<String>,
    },
    /// List the trusted keys, and which can sign here
    #[command(after_help = "Example:\n  sealift keys list")]
    List,
}

pub(crate) async fn run(shell: &Shell, arguments: &Arguments) -> Result<Report> {
    let workspace = shell.workspace()?;
    let (config, root) = (&workspace.config, &workspace.root);
    match &arguments.what {
        What::New { name } => {
            let name = match name {
                Some(name) => Name::new(name.clone()).map_err(|error| Error::Usage { message: error.to_string() })?,
                None => config.signing.key.clone(),
            };
            let key = keyring::create(&shell.host, config, root, &name)?;
            let public = key.public.strip_prefix(root).unwrap_or(&key.public);
            let private = key.private.as_ref().map(|path| path.display().to_string()).unwrap_or_default();
            let words = format!(
                "key {} ({})\n  private {private} (keep a copy in a safe place; it is nowhere else)\n  public  {2}\n  next: git add {2} && git commit",
                key.name,
                key.fingerprint,
                public.display()
            );
            Ok(Report::new(&key, words))
        }
        What::List => {
            let keys = keyring::list(&shell.host, config, root)?;
            if keys.is_empty() {
                let text = format!("no trusted key in {}\n  next: sealift keys new", config.signing.trusted);
                return Ok(Report::new(&keys, text));
            }
            let mut table = Table::new(["KEY", "FINGERPRINT", "SIGNS", "PRIVATE HALF", "PUBLIC"]);
            for key in &keys {
                let public = key.public.strip_prefix(root).unwrap_or(&key.public);
                table.row([
                    key.name.clone().into(),
                    key.fingerprint.clone().into(),
                    if key.signs { "yes" } else { "no" }.into(),
                    key.private
                        .as_ref()
                        .map_or_else(|| "not on this host".to_owned(), |path| path.display().to_string())
                        .into(),
                    public.display().to_string().into(),
                ]);
            }
            let paint = Paint::out();
            let mut words = table.render("", &paint);
            if !keys.iter().any(|key| key.signs) {
                let text = format!("[signing] key = {:?} is not among them", config.signing.key.as_str());
                words.push_str(&format!("\n  {} {text}", paint.style("!", Style::Bad)));
            }
            Ok(Report::new(&keys, words))
        }
    }
}
