{
  description = "Sealift: seal every release, lift it through its gates";

  inputs.nixpkgs.url = "github:NixOS/nixpkgs/nixpkgs-unstable";

  outputs =
    { nixpkgs, ... }:
    let
      inherit (nixpkgs) lib;
      inherit ((lib.importTOML ./Cargo.toml).workspace.package) version;
      each =
        make:
        lib.genAttrs [ "x86_64-linux" "aarch64-linux" ] (system: make nixpkgs.legacyPackages.${system});

      # Only what cargo reads: a change of the README rebuilds nothing.
      source = lib.fileset.toSource {
        root = ./.;
        fileset = lib.fileset.unions [
          ./Cargo.toml
          ./Cargo.lock
          ./clippy.toml
          ./rustfmt.toml
          ./crates
          ./deploy
          ./tests
          ./xtask
        ];
      };

      packageFor =
        pkgs:
        pkgs.rustPlatform.buildRustPackage {
          pname = "sealift";
          inherit version;
          src = source;
          cargoLock.lockFile = ./Cargo.lock;
          cargoBuildFlags = [
            "--package"
            "sealift"
          ];
          # Without a HOME of its own an unsandboxed build leaves /homeless-shelter behind, and no later one starts.
          preBuild = "export HOME=$(mktemp -d)";
          # The tests are a check of their own.
          doCheck = false;
          meta = {
            description = "Seal every release, lift it through its gates";
            license = [
              lib.licenses.mit
              lib.licenses.asl20
            ];
            mainProgram = "sealift";
          };
        };

      # The same sources and dependencies, with another command in place of the build.
      checkFor =
        pkgs: name: tools: command:
        (packageFor pkgs).overrideAttrs (old: {
          pname = "sealift-${name}";
          nativeBuildInputs = old.nativeBuildInputs ++ tools;
          buildPhase = ''
            runHook preBuild
            ${command}
            runHook postBuild
          '';
          installPhase = "touch $out";
          dontFixup = true;
        });
    in
    {
      packages = each (pkgs: rec {
        default = packageFor pkgs;
        image = pkgs.dockerTools.streamLayeredImage {
          name = "sealift";
          tag = version;
          contents = [
            default
            pkgs.cacert
            pkgs.gitMinimal
          ];
          config = {
            Entrypoint = [ (lib.getExe default) ];
            Env = [ "SSL_CERT_FILE=${pkgs.cacert}/etc/ssl/certs/ca-bundle.crt" ];
            User = "1000:1000";
            WorkingDir = "/work";
          };
        };
      });

      apps = each (pkgs: {
        default = {
          type = "app";
          program = lib.getExe (packageFor pkgs);
        };
      });

      devShells = each (pkgs: {
        default = pkgs.mkShell {
          inputsFrom = [ (packageFor pkgs) ];
          packages = [
            pkgs.awscli2
            pkgs.cargo-deny
            pkgs.clippy
            pkgs.cosign
            pkgs.git
            pkgs.rustfmt
            pkgs.skopeo
          ];
        };
      });

      checks = each (pkgs: {
        default = packageFor pkgs;
        clippy = checkFor pkgs "clippy" [
          pkgs.clippy
        ] "cargo clippy --offline --workspace --all-targets -- -D warnings";
        fmt = checkFor pkgs "fmt" [ pkgs.rustfmt ] "cargo fmt --all -- --check";
        # Without the end-to-end tests: they need servers that a sandbox does not have.
        test = checkFor pkgs "test" [ pkgs.git ] "cargo test --offline --workspace --exclude e2e";
      });

      formatter = each (pkgs: pkgs.nixfmt-tree);
    };
}
