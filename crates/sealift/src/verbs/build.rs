//! `sealift build`.

use crate::{
    report::Report,
    shell::Shell,
    text::{Paint, Table, bytes},
};
use engine::Result;

/// Build the images and artifacts of components; nothing is published
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
    let mut table = Table::new(["COMPONENT", "VERSION", "BUILDER", "WHAT", "DIGEST", "SIZE"]);
    for one in &built {
        let images = one.images.iter().map(|(platform, image)| (platform.clone(), image.manifest, image.bytes));
        let index = one.index.iter().map(|index| ("index".to_owned(), index.digest, index.bytes));
        let files = one.artifacts.iter().map(|(path, file)| (path.clone(), file.digest, file.bytes));
        let made: Vec<_> = images.chain(index).chain(files).collect();
        let name = [one.component.to_string(), one.version.to_string(), one.builder.clone()];
        if made.is_empty() {
            let [component, version, builder] = name.clone();
            table.row([component.into(), version.into(), builder.into(), "-".into(), "-".into(), "-".into()]);
        }
        for (what, digest, size) in made {
            let [component, version, builder] = name.clone();
            let digest = digest.to_string();
            table.row([
                component.into(),
                version.into(),
                builder.into(),
                what.into(),
                digest.into(),
                bytes(size).into(),
            ]);
        }
    }
    Ok(Report::new(&built, table.render("", &Paint::out())))
}
