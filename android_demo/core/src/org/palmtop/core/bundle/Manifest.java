package org.palmtop.core.bundle;

import java.math.BigDecimal;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import org.palmtop.core.PalmtopException;

/** {@code bundle.json}, checked by the rules of {@code runtime/bundle/manifest.py} and in its words. */
public final class Manifest {
    public static final int SCHEMA = 1;
    public static final List<String> MODES =
            Collections.unmodifiableList(Arrays.asList("text", "image", "audio", "image+audio"));

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
    /** By mode; any other name is a task that requests may name. */
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
        public final int contextLength;
        /** Beyond this many tokens the long LongRoPE factors apply; null without LongRoPE. */
        public final Integer originalContext;
        public final int[] sampledNever;
        /** States that its graph carries from one run to the next. */
        public final List<State> states;

        Decoder(Map<String, Object> data) {
            file = (String) data.get("file");
            vocabSize = ProcessorSpec.integer(data, "vocab_size");
            hiddenSize = ProcessorSpec.integer(data, "hidden_size");
            numLayers = ProcessorSpec.integer(data, "num_layers");
            numHeads = ProcessorSpec.integer(data, "num_heads");
            contextLength = ProcessorSpec.integer(data, "context_length");
            Object original = data.get("original_context");
            originalContext = original == null ? null : ProcessorSpec.integer(data, "original_context");
            sampledNever = ProcessorSpec.integers(data.get("sampled_never"));
            List<State> read = new ArrayList<State>();
            for (Object state : (List<?>) data.get("states")) {
                read.add(new State(JsonFields.read(state, "decoder.states[" + read.size() + "]", State.FIELDS)));
            }
            states = Collections.unmodifiableList(read);
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
        /** Its own external data file; null where its weights lie among the decoder's. */
        public final String file;
        /** Effect on the route's adapters of a request that names it: "replace" or "add". */
        public final String combine;
        /** Adapters it was merged from, with the coefficients; empty for a trained one. */
        public final Map<String, Double> mergedFrom;

        Adapter(Map<String, Object> data) {
            name = (String) data.get("name");
            rank = ProcessorSpec.integer(data, "rank");
            gate = ProcessorSpec.integer(data, "gate");
            file = (String) data.get("file");
            combine = (String) data.get("combine");
            mergedFrom = weights(data.get("merged_from"));
        }
    }

    /** Adapters and projector of a mode of input, or of a task. */
    public static final class Route {
        public final Map<String, Double> adapters;
        public final String audioProjector;

        Route(Map<String, Object> data) {
            adapters = weights(data.get("adapters"));
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
            throw JsonFields.fault("type", "", "is " + Json.kind(data) + ", expected an object");
        }
        Map<String, Object> body = new LinkedHashMap<String, Object>(JsonFields.object(data));
        checkSchema(body.remove("schema"));
        JsonFields.checkKeys(body, "", Arrays.asList(ManifestFields.MANIFEST));
        for (String key : new String[] {"routes", "files", "processor", "recipe"}) {
            checkType(body, key, "an object");
        }
        // Targets are graphs for providers that this app does not have; it runs the bundle's own.
        for (String key : new String[] {"adapters", "parts", "targets"}) {
            checkType(body, key, "a list");
        }
        for (String key : new String[] {"model", "architecture", "source_sha256", "adapter_mode", "palmtop"}) {
            checkType(body, key, "text");
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
        decoder = new Decoder(JsonFields.read(body.get("decoder"), "decoder", ManifestFields.DECODER));
        vision = encoder(body, "vision");
        audio = encoder(body, "audio");
        adapters = new ArrayList<Adapter>();
        for (Object adapter : (List<?>) body.get("adapters")) {
            String where = "adapters[" + adapters.size() + "]";
            adapters.add(new Adapter(JsonFields.read(adapter, where, ManifestFields.ADAPTER)));
        }
        parts = new ArrayList<Part>();
        for (Object part : (List<?>) body.get("parts")) {
            parts.add(new Part(JsonFields.read(part, "parts[" + parts.size() + "]", ManifestFields.PART)));
        }
        routes = new LinkedHashMap<String, Route>();
        for (Map.Entry<String, Object> entry : JsonFields.object(body.get("routes")).entrySet()) {
            String where = "routes." + entry.getKey();
            routes.put(entry.getKey(), new Route(JsonFields.read(entry.getValue(), where, ManifestFields.ROUTE)));
        }
        recipe = JsonFields.object(body.get("recipe"));
        files = new LinkedHashMap<String, BundleFile>();
        for (Map.Entry<String, Object> entry : JsonFields.object(body.get("files")).entrySet()) {
            String where = "files." + entry.getKey();
            files.put(entry.getKey(), new BundleFile(JsonFields.read(entry.getValue(), where, ManifestFields.FILE)));
        }
    }

    /** The modes this bundle serves. */
    public List<String> modes() {
        List<String> served = new ArrayList<String>(MODES);
        served.retainAll(routes.keySet());
        return served;
    }

    /** Routes that requests choose by name. */
    public List<String> tasks() {
        List<String> named = new ArrayList<String>(routes.keySet());
        named.removeAll(MODES);
        return named;
    }

    /** Whether there is an encoder and a processor for every kind of input in this mode. */
    public boolean hasEncoders(String mode) {
        List<String> kinds = Arrays.asList(mode.split("\\+"));
        return !(kinds.contains("image") && (vision == null || processor.image == null))
                && !(kinds.contains("audio") && (audio == null || processor.audio == null));
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

    private static Encoder encoder(Map<String, Object> body, String key) {
        Object data = body.get(key);
        return data == null ? null : new Encoder(JsonFields.read(data, key, ManifestFields.ENCODER));
    }

    private static Map<String, Double> weights(Object data) {
        Map<String, Double> weights = new LinkedHashMap<String, Double>();
        for (Map.Entry<String, Object> entry : JsonFields.object(data).entrySet()) {
            weights.put(entry.getKey(), ((Number) entry.getValue()).doubleValue());
        }
        return Collections.unmodifiableMap(weights);
    }

    private static void checkSchema(Object schema) {
        boolean isWhole = schema instanceof Number && !(schema instanceof Double);
        if (!isWhole || JsonFields.decimal((Number) schema).signum() < 1) {
            throw JsonFields.refuse("schema", schema, String.valueOf(SCHEMA));
        }
        if (JsonFields.decimal((Number) schema).compareTo(new BigDecimal(SCHEMA)) > 0) {
            throw new PalmtopException(
                    PalmtopException.Kind.BUNDLE_VERSION,
                    JsonFields.MANIFEST_FILE + ": schema is " + schema + ", this palmtop reads " + SCHEMA
                            + "; upgrade palmtop");
        }
    }

    private static void checkType(Map<String, Object> body, String key, String expected) {
        String found = Json.kind(body.get(key));
        if (!found.equals(expected)) {
            throw JsonFields.fault("type", key, key + " is " + found + ", expected " + expected);
        }
    }
}
