package org.palmtop.core.bundle;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import org.palmtop.core.PalmtopException;
import org.palmtop.core.bundle.JsonFields.Field;

/** {@code bundle.json}, checked by the rules of {@code runtime/manifest.py} and in its words. */
public final class Manifest {
    public static final int SCHEMA = 1;
    public static final List<String> MODES =
            Collections.unmodifiableList(Arrays.asList("text", "image", "audio", "image+audio"));
    private static final String MAX_SIZE = "281474976710656";
    private static final String[] KEYS = {
        "model", "architecture", "source_sha256", "adapter_mode", "processor", "decoder", "vision", "audio",
        "adapters", "routes", "parts", "recipe", "files", "palmtop"
    };

    public final String model;
    public final String architecture;
    public final String adapterMode;
    public final String palmtop;
    public final ProcessorSpec processor;
    public final Decoder decoder;
    /** Null where the model has none; so is {@code audio}. */
    public final Encoder vision;
    public final Encoder audio;
    public final List<Adapter> adapters;
    public final Map<String, Route> routes;
    public final List<Part> parts;
    public final Map<String, Object> recipe;
    public final Map<String, BundleFile> files;

    /** The decoder graph's sizes. */
    public static final class Decoder {
        public final String file;
        public final int vocabSize;
        public final int hiddenSize;
        public final int numLayers;
        public final int numHeads;
        public final int numKvHeads;
        public final int headSize;
        public final int contextLength;
        /** Beyond this many tokens the long LongRoPE factors apply; null without LongRoPE. */
        public final Integer originalContext;
        public final int[] sampledNever;

        Decoder(Map<String, Object> data) {
            file = (String) data.get("file");
            vocabSize = ProcessorSpec.integer(data, "vocab_size");
            hiddenSize = ProcessorSpec.integer(data, "hidden_size");
            numLayers = ProcessorSpec.integer(data, "num_layers");
            numHeads = ProcessorSpec.integer(data, "num_heads");
            numKvHeads = ProcessorSpec.integer(data, "num_kv_heads");
            headSize = ProcessorSpec.integer(data, "head_size");
            contextLength = ProcessorSpec.integer(data, "context_length");
            Object original = data.get("original_context");
            originalContext = original == null ? null : ProcessorSpec.integer(data, "original_context");
            sampledNever = ProcessorSpec.integers(data.get("sampled_never"));
        }
    }

    /** One encoder graph and what a pass through it costs. */
    public static final class Encoder {
        public final String file;
        public final long bytesPerItem;

        Encoder(Map<String, Object> data) {
            file = (String) data.get("file");
            bytesPerItem = ((Number) data.get("bytes_per_item")).longValue();
        }
    }

    /** One LoRA adapter inside the decoder graph. */
    public static final class Adapter {
        public final String name;
        public final int rank;
        public final int gate;

        Adapter(Map<String, Object> data) {
            name = (String) data.get("name");
            rank = ProcessorSpec.integer(data, "rank");
            gate = ProcessorSpec.integer(data, "gate");
        }
    }

    /** What a mode of input switches on. */
    public static final class Route {
        public final Map<String, Double> adapters;
        public final String audioProjector;

        Route(Map<String, Object> data) {
            Map<String, Double> weights = new LinkedHashMap<String, Double>();
            for (Map.Entry<String, Object> entry : JsonFields.object(data.get("adapters")).entrySet()) {
                weights.put(entry.getKey(), ((Number) entry.getValue()).doubleValue());
            }
            adapters = Collections.unmodifiableMap(weights);
            audioProjector = (String) data.get("audio_projector");
        }
    }

    /** One class of tensors and how it is stored. */
    public static final class Part {
        public final String name;
        public final int bits;
        /** Weights that share a scale; 0 for float parts. */
        public final int group;
        public final long parameters;
        public final long sizeBytes;

        Part(Map<String, Object> data) {
            name = (String) data.get("name");
            bits = ProcessorSpec.integer(data, "bits");
            group = data.get("group") == null ? 0 : ProcessorSpec.integer(data, "group");
            parameters = ((Number) data.get("parameters")).longValue();
            sizeBytes = ((Number) data.get("size_bytes")).longValue();
        }
    }

    /** Size and hash of one file. */
    public static final class BundleFile {
        public final long sizeBytes;
        public final String sha256;

        BundleFile(Map<String, Object> data) {
            sizeBytes = ((Number) data.get("size_bytes")).longValue();
            sha256 = (String) data.get("sha256");
        }
    }

    /** Read a manifest from what JSON gave. */
    public static Manifest read(Object data) {
        if (!(data instanceof Map)) {
            throw JsonFields.bundle("is " + PythonText.typeName(data) + ", expected an object");
        }
        Map<String, Object> body = new LinkedHashMap<String, Object>(JsonFields.object(data));
        checkSchema(body.remove("schema"));
        JsonFields.checkKeys(body, "", Arrays.asList(KEYS));
        for (String key : new String[] {"routes", "files", "adapters", "parts", "processor", "recipe"}) {
            checkType(body, key, key.equals("adapters") || key.equals("parts") ? "list" : "dict");
        }
        for (String key : new String[] {"model", "architecture", "source_sha256", "adapter_mode", "palmtop"}) {
            checkType(body, key, "str");
        }
        Manifest manifest = new Manifest(body);
        new ManifestReferences(manifest).check();
        return manifest;
    }

    private Manifest(Map<String, Object> body) {
        model = (String) body.get("model");
        architecture = (String) body.get("architecture");
        adapterMode = (String) body.get("adapter_mode");
        palmtop = (String) body.get("palmtop");
        processor = ProcessorSpec.read(JsonFields.object(body.get("processor")));
        decoder = new Decoder(JsonFields.read(body.get("decoder"), "decoder", DECODER));
        vision = body.get("vision") == null ? null : new Encoder(JsonFields.read(body.get("vision"), "vision", ENCODER));
        audio = body.get("audio") == null ? null : new Encoder(JsonFields.read(body.get("audio"), "audio", ENCODER));
        adapters = new ArrayList<Adapter>();
        for (Object adapter : (List<?>) body.get("adapters")) {
            adapters.add(new Adapter(JsonFields.read(adapter, "adapters[" + adapters.size() + "]", ADAPTER)));
        }
        parts = new ArrayList<Part>();
        for (Object part : (List<?>) body.get("parts")) {
            parts.add(new Part(JsonFields.read(part, "parts[" + parts.size() + "]", PART)));
        }
        routes = new LinkedHashMap<String, Route>();
        for (Map.Entry<String, Object> entry : JsonFields.object(body.get("routes")).entrySet()) {
            routes.put(entry.getKey(), new Route(JsonFields.read(entry.getValue(), "routes." + entry.getKey(), ROUTE)));
        }
        recipe = JsonFields.object(body.get("recipe"));
        files = new LinkedHashMap<String, BundleFile>();
        for (Map.Entry<String, Object> entry : JsonFields.object(body.get("files")).entrySet()) {
            files.put(entry.getKey(), new BundleFile(JsonFields.read(entry.getValue(), "files." + entry.getKey(), FILE)));
        }
    }

    /** The modes this bundle serves. */
    public List<String> modes() {
        List<String> served = new ArrayList<String>(MODES);
        served.retainAll(routes.keySet());
        return served;
    }

    /** The adapter of this name, or null. */
    public Adapter adapter(String name) {
        for (Adapter adapter : adapters) {
            if (adapter.name.equals(name)) {
                return adapter;
            }
        }
        return null;
    }

    private static void checkSchema(Object schema) {
        boolean isNumber = PythonText.typeName(schema).equals("int");
        if (!isNumber || JsonFields.decimal((Number) schema).signum() < 1) {
            throw JsonFields.bundle("schema is " + PythonText.repr(schema) + ", expected a number from 1 to " + SCHEMA);
        }
        if (!schema.equals((long) SCHEMA)) {
            throw new PalmtopException(
                    PalmtopException.Kind.BUNDLE_VERSION,
                    JsonFields.MANIFEST_FILE + ": schema is " + schema + ", this palmtop reads up to " + SCHEMA
                            + "; upgrade palmtop");
        }
    }

    private static void checkType(Map<String, Object> body, String key, String expected) {
        String found = PythonText.typeName(body.get(key));
        if (!found.equals(expected)) {
            throw JsonFields.bundle(key + " is " + found + ", expected " + expected);
        }
    }

    private static Field size(String name, int log2) {
        return new Field(name, "int", "1", String.valueOf(1L << log2));
    }

    private static final Field[] DECODER = {
        new Field("file", "str"),
        size("vocab_size", 24),
        size("hidden_size", 16),
        size("num_layers", 12),
        size("num_heads", 12),
        size("num_kv_heads", 12),
        size("head_size", 12),
        size("context_length", 24),
        new Field("original_context", "int | None", "1", "16777216"),
        new Field("sampled_never", "tuple[int, ...]", "0", "16777215"),
    };
    private static final Field[] ENCODER = {
        new Field("file", "str"), new Field("bytes_per_item", "int", "1", MAX_SIZE),
    };
    private static final Field[] ADAPTER = {
        new Field("name", "str"),
        size("rank", 16),
        new Field("alpha", "float"),
        new Field("gate", "int", "0", "65536"),
        new Field("base_sha256", "str"),
    };
    private static final Field[] ROUTE = {
        new Field("adapters", "dict[str, float]"), new Field("audio_projector", "str"),
    };
    private static final Field[] PART = {
        new Field("name", "str"),
        new Field("bits", "int", "1", "64"),
        new Field("group", "int | None", "1", "16777216"),
        new Field("parameters", "int", "0", MAX_SIZE),
        new Field("size_bytes", "int", "0", MAX_SIZE),
    };
    private static final Field[] FILE = {
        new Field("size_bytes", "int", "0", MAX_SIZE), new Field("sha256", "str"),
    };
}
