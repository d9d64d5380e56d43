# The builder of the double of streamLayeredImage; see flake.nix beside this file. Every variable is an attribute.

# One layer with the program where its store path says it is, so that the entry point is found.
same="--sort=name --mtime=@1 --owner=0 --group=0 --numeric-owner"
mkdir image
tar $same -cf image/layer.tar -C / "${program#/}"
digest=$(sha256sum image/layer.tar | cut -d' ' -f1)
printf '{"architecture":"amd64","os":"linux","config":%s,"rootfs":{"type":"layers","diff_ids":["sha256:%s"]}}' \
  "$config" "$digest" > image/config.json
printf '[{"Config":"config.json","RepoTags":["%s"],"Layers":["layer.tar"]}]' "$reference" > image/manifest.json

# A script that prints the archive, which is its own end.
{
  printf '%s\n' '#!/bin/sh' 'sed "1,/^__ARCHIVE__\$/d" "$0" | base64 -d' 'exit' '__ARCHIVE__'
  tar $same -cf - -C image config.json layer.tar manifest.json | base64
} > "$out"
chmod +x "$out"
