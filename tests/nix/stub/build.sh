# The builder of the double of buildRustPackage; see flake.nix beside this file. Every variable is an attribute.

# The real source, after the flake's filter: every member of the workspace, and nothing that cargo or git leave behind.
cmp "$lockFile" "$src/Cargo.lock"
test ! -e "$src/target"
test ! -e "$src/.git"
cargo metadata --quiet --offline --no-deps --format-version 1 --manifest-path "$src/Cargo.toml" > metadata.json
for manifest in "$src"/crates/*/Cargo.toml "$src/xtask/Cargo.toml" "$src/tests/Cargo.toml"; do
  grep -qF "$manifest" metadata.json
done

# The small workspace in its place, by the phases that the flake sets.
runHook() { eval "$(printenv "$1" || true)"; }
cp -R "$stubSource" build
chmod -R u+w build
cd build
export CARGO_TARGET_DIR="$PWD/target"
if test -n "${buildPhase:-}"; then
  eval "$buildPhase"
else
  runHook preBuild
  # Flags are a list of words without spaces, as in nixpkgs.
  cargo build --offline --release $cargoBuildFlags
  runHook postBuild
fi
test "$HOME" != /homeless-shelter
test -n "${doCheck:-}" && cargo test --offline --release ${cargoTestFlags:-}
if test -n "${installPhase:-}"; then
  eval "$installPhase"
else
  mkdir -p "$out/bin"
  cp "$CARGO_TARGET_DIR/release/sealift" "$out/bin/"
fi
