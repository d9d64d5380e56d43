# A double of nixpkgs, as small as `flake.nix` allows, for machines that cannot reach the real one.
#
# It holds the flake to a contract: an attribute that `buildRustPackage`, `streamLayeredImage` or `mkShell` would not know,
# a source filter that leaves a member of the workspace out, or a missing lock file is an error. What it builds is not the
# workspace but the small one that SEALIFT_STUB_SOURCE names, with the host's cargo, by the phases that the flake sets.
# It says nothing about nixpkgs' own behaviour.
{
  outputs =
    { ... }:
    let
      genAttrs =
        names: make:
        builtins.listToAttrs (
          map (name: {
            inherit name;
            value = make name;
          }) names
        );
      environment =
        name:
        let
          value = builtins.getEnv name;
        in
        if value == "" then throw "stub: ${name} is not set" else value;
      hasPrefix = prefix: text: builtins.substring 0 (builtins.stringLength prefix) text == prefix;
      strict =
        what: known: given:
        let
          unknown = builtins.attrNames (removeAttrs given known);
        in
        if unknown == [ ] then
          given
        else
          throw "stub: ${what} has no attribute ${builtins.concatStringsSep ", " unknown}";

      lib = {
        inherit genAttrs;
        importTOML = path: builtins.fromTOML (builtins.readFile path);
        getExe = package: "${package}/bin/${package.meta.mainProgram}";
        licenses = {
          mit.spdxId = "MIT";
          asl20.spdxId = "Apache-2.0";
        };
        fileset = {
          unions =
            paths:
            map (
              path: if builtins.pathExists path then toString path else throw "stub: ${toString path} is missing"
            ) paths;
          toSource =
            { root, fileset }:
            builtins.path {
              name = "source";
              path = root;
              filter =
                path: _:
                builtins.any (
                  wanted: path == wanted || hasPrefix "${wanted}/" path || hasPrefix "${path}/" wanted
                ) fileset;
            };
        };
      };

      # mkDerivation, as far as the flake uses it: phases in order, overrideAttrs, meta and passthru outside the builder.
      make =
        system: attributes:
        let
          inner = derivation (
            {
              name = "${attributes.pname}-${attributes.version}";
              inherit system;
              builder = "/bin/sh";
              args = [
                "-e"
                ./build.sh
              ];
              PATH = environment "SEALIFT_STUB_PATH";
              stubSource = builtins.path {
                name = "stub-source";
                path = /. + environment "SEALIFT_STUB_SOURCE";
              };
            }
            // removeAttrs attributes [
              "meta"
              "cargoLock"
              "nativeBuildInputs"
            ]
          );
        in
        inner
        // {
          inherit (attributes) meta pname version;
          overrideAttrs = change: make system (attributes // change attributes);
        };

      packagesFor =
        system:
        let
          tool =
            name:
            derivation {
              inherit name system;
              builder = "/bin/sh";
              args = [
                "-c"
                "echo ${name} > $out"
              ];
            };
        in
        genAttrs [
          "awscli2"
          "cacert"
          "cargo-deny"
          "clippy"
          "cosign"
          "git"
          "gitMinimal"
          "nixfmt-tree"
          "rustfmt"
          "skopeo"
        ] tool
        // {
          rustPlatform.buildRustPackage =
            given:
            let
              attributes = strict "buildRustPackage" [
                "pname"
                "version"
                "src"
                "cargoLock"
                "cargoBuildFlags"
                "cargoTestFlags"
                "nativeBuildInputs"
                "preBuild"
                "postBuild"
                "doCheck"
                "meta"
              ] given;
            in
            make system (
              attributes
              // {
                nativeBuildInputs = attributes.nativeBuildInputs or [ ];
                inherit (strict "cargoLock" [ "lockFile" ] attributes.cargoLock) lockFile;
              }
            );

          # A script that prints an archive for `docker load`, as the real one does.
          dockerTools.streamLayeredImage =
            given:
            let
              attributes = strict "streamLayeredImage" [
                "name"
                "tag"
                "contents"
                "config"
              ] given;
            in
            derivation {
              name = "stream-${attributes.name}";
              inherit system;
              builder = "/bin/sh";
              args = [
                "-e"
                ./image.sh
              ];
              PATH = environment "SEALIFT_STUB_PATH";
              reference = "${attributes.name}:${attributes.tag}";
              config = builtins.toJSON (
                strict "config" [
                  "Entrypoint"
                  "Env"
                  "User"
                  "WorkingDir"
                ] attributes.config
              );
              program = builtins.head attributes.contents;
              others = builtins.tail attributes.contents;
            };

          mkShell =
            given:
            let
              attributes = strict "mkShell" [
                "inputsFrom"
                "packages"
              ] given;
            in
            derivation {
              name = "shell";
              inherit system;
              inherit (attributes) inputsFrom packages;
              builder = "/bin/sh";
              args = [
                "-c"
                "echo $packages > $out"
              ];
            };
        };
    in
    {
      inherit lib;
      legacyPackages = genAttrs [ "x86_64-linux" "aarch64-linux" ] packagesFor;
    };
}
