//! `sealift build`.

use crate::{
    report::Report,
    shell::Shell,
    text::{Paint, Table, bytes},
};
use engine::Result;

/// Build the images of components; nothing is published
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  sealift build\n  sealift build wine")]
pub(crate) struct Arguments {
    /// Components; without any, all of them
    #[arg(value_name = "COMPONENT")]
    components: Vec<String>,
}

pub(crate) async fn run(shell: &Shell, arguments: &Arguments) -> Result<Report> {
    let workspace = shell.workspace()?;
    let built = engine::build::build(&workspace, &arguments.components).await?;
    let mut table = Table::new(["COMPONENT", "VERSION", "BUILDER", "PLATFORM", "IMAGE", "SIZE"]);
    for one in &built {
        let image = one.image.as_ref();
        table.row([
            one.component.to_string().into(),
            one.version.to_string().into(),
            one.builder.clone().into(),
            one.platform.clone().unwrap_or_else(|| "-".to_owned()).into(),
            image.map_or_else(|| "-".to_owned(), |image| image.manifest.to_string()).into(),
            image.map_or_else(|| "-".to_owned(), |image| bytes(image.bytes)).into(),
        ]);
    }
    Ok(Report::new(&built, table.render("", &Paint::out())))
}
