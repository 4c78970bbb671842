#!/bin/sh
# Embed with nothing but curl: floats, base64, token ids, and what an error looks like.
set -eu

url=${EMBEDFLEET_URL:-http://127.0.0.1:8080/v1}
if ! listed=$(curl -sS "$url/models"); then
    echo "no service answers at $url: start one with \`make serve\`, or set EMBEDFLEET_URL" >&2
    exit 1
fi
model=$(printf '%s' "$listed" | sed 's/.*"data":\[{"id":"\([^"]*\)".*/\1/')

embed() {
    curl -sS "$url/embeddings" -H 'content-type: application/json' -d "$1" | cut -c 1-200
    echo
}

echo "floats, 32 of them:"
embed '{"model": "'"$model"'", "input": "How are you today?", "dimensions": 32}'

echo "base64 of little-endian float32, two documents:"
embed '{"model": "'"$model"'", "input": ["The sky is blue.", "天空是蓝色的。"],
        "dimensions": 32, "encoding_format": "base64", "input_type": "document"}'

echo "token ids instead of a text:"
embed '{"model": "'"$model"'", "input": [10, 11, 12], "dimensions": 32}'

echo "an error:"
embed '{"model": "'"$model"'", "input": ["fine", ""]}'
