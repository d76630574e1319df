package org.palmtop.core.bundle;

import java.util.Arrays;
import org.palmtop.core.bundle.JsonFields.Field;

/** Keys, types and limits of the manifest's objects, as the dataclasses of {@code runtime/bundle/manifest.py} have them. */
final class ManifestFields {
    private static final String MAX_SIZE = "281474976710656";
    static final String[] MANIFEST = {
        "model", "architecture", "source_sha256", "adapter_mode", "processor", "decoder", "vision", "audio",
        "adapters", "routes", "parts", "recipe", "files", "palmtop", "targets"
    };
    static final Field[] DECODER = {
        new Field("file", "str"),
        size("vocab_size", 24),
        size("hidden_size", 16),
        size("num_layers", 12),
        size("num_heads", 12),
        size("context_length", 24),
        new Field("original_context", "int | None", "1", "16777216"),
        new Field("sampled_never", "tuple[int, ...]", "0", "16777215"),
        new Field("draft_rows", "int", "1", "15"),
        new Field("states", "tuple[StateSpec, ...]"),
    };
    static final Field[] ENCODER = {
        new Field("file", "str"), new Field("bytes_per_item", "int", "1", MAX_SIZE),
    };
    static final Field[] ADAPTER = {
        new Field("name", "str"),
        size("rank", 16),
        new Field("alpha", "float"),
        new Field("gate", "int", "0", "65536"),
        new Field("base_sha256", "str"),
        new Field("file", "str | None"),
        Field.oneOf("combine", Arrays.asList("replace", "add")),
        new Field("merged_from", "dict[str, float]"),
    };
    static final Field[] ROUTE = {
        new Field("adapters", "dict[str, float]"), Field.oneOf("audio_projector", Arrays.asList("speech", "vision")),
    };
    static final Field[] PART = {
        new Field("name", "str"),
        new Field("bits", "int", "1", "64"),
        new Field("group", "int | None", "1", "16777216"),
        new Field("parameters", "int", "0", MAX_SIZE),
        new Field("size_bytes", "int", "0", MAX_SIZE),
    };
    static final Field[] FILE = {
        new Field("size_bytes", "int", "0", MAX_SIZE), new Field("sha256", "str"),
    };

    private ManifestFields() {}

    private static Field size(String name, int log2) {
        return new Field(name, "int", "1", String.valueOf(1L << log2));
    }
}
