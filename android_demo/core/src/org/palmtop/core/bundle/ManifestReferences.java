package org.palmtop.core.bundle;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.regex.Pattern;

/** Values of a manifest that must agree with each other. */
final class ManifestReferences {
    static final List<String> REQUIRED_FILES =
            Arrays.asList("genai_config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja");
    private static final List<String> ADAPTER_MODES = Arrays.asList("gated", "merged", "none");

    private static final Pattern ADAPTER_NAME = Pattern.compile("[A-Za-z0-9][A-Za-z0-9_-]{0,63}");
    private static final Pattern ROUTE_NAME = Pattern.compile("[A-Za-z0-9][A-Za-z0-9_+-]{0,63}");
    private static final String RESERVED_NAME = "none"; // in requests it switches every adapter off

    private final Manifest manifest;

    ManifestReferences(Manifest manifest) {
        this.manifest = manifest;
    }

    void check() {
        checkIds();
        checkAdapters();
        for (Map.Entry<String, Manifest.Route> entry : manifest.routes.entrySet()) {
            checkRoute(entry.getKey(), entry.getValue());
        }
        List<String> needed = new ArrayList<String>();
        needed.add(manifest.decoder.file);
        if (manifest.vision != null) {
            needed.add(manifest.vision.file);
        }
        if (manifest.audio != null) {
            needed.add(manifest.audio.file);
        }
        needed.addAll(REQUIRED_FILES);
        for (String name : needed) {
            if (!manifest.files.containsKey(name)) {
                throw JsonFields.fault("value", "files", "'" + name + "' is not among the bundle's files");
            }
        }
        for (Map.Entry<String, Manifest.BundleFile> entry : manifest.files.entrySet()) {
            String found = entry.getValue().sha256;
            if (!found.matches("[0-9a-f]{64}")) {
                throw JsonFields.refuse("files." + entry.getKey() + ".sha256", found, "64 hexadecimal digits");
            }
        }
    }

    private void checkIds() {
        Manifest.Decoder decoder = manifest.decoder;
        State.check(decoder.states, decoder.numLayers, "decoder.states");
        List<Integer> ids = new ArrayList<Integer>();
        for (int id : decoder.sampledNever) {
            ids.add(id);
        }
        for (int id : manifest.processor.text.eosIds) {
            ids.add(id);
        }
        if (manifest.processor.image != null) {
            ids.add(manifest.processor.image.tokenId);
        }
        if (manifest.processor.audio != null) {
            ids.add(manifest.processor.audio.tokenId);
        }
        for (int id : ids) {
            if (id >= decoder.vocabSize) {
                String expected = "less than decoder.vocab_size, " + decoder.vocabSize;
                throw JsonFields.fault(
                        "value", "decoder.vocab_size", "a special token id is " + id + ", expected " + expected);
            }
        }
    }

    private void checkAdapters() {
        if (!ADAPTER_MODES.contains(manifest.adapterMode)) {
            throw JsonFields.refuse("adapter_mode", manifest.adapterMode, "one of gated, merged, none");
        }
        List<Integer> gates = new ArrayList<Integer>();
        StringBuilder names = new StringBuilder();
        HashSet<String> different = new HashSet<String>();
        for (Manifest.Adapter adapter : manifest.adapters) {
            gates.add(adapter.gate);
            names.append(names.length() > 0 ? ", " : "").append(adapter.name);
            different.add(adapter.name);
        }
        List<Integer> sorted = new ArrayList<Integer>(gates);
        Collections.sort(sorted);
        for (int i = 0; i < sorted.size(); i++) {
            if (sorted.get(i) != i) {
                throw JsonFields.fault("value", "adapters", "adapter gates are " + gates + ", expected 0 to "
                        + (gates.size() - 1) + " once each");
            }
        }
        if (different.size() != gates.size()) {
            throw JsonFields.fault("value", "adapters", "adapters are named " + names + ", expected each name once");
        }
        for (int place = 0; place < manifest.adapters.size(); place++) {
            checkAdapter("adapters[" + place + "]", manifest.adapters.get(place));
        }
    }

    private void checkAdapter(String where, Manifest.Adapter adapter) {
        if (!ADAPTER_NAME.matcher(adapter.name).matches() || adapter.name.equals(RESERVED_NAME)) {
            String expected = "letters, digits, - and _, at most 64, and not 'none'";
            throw JsonFields.refuse(where + ".name", adapter.name, expected);
        }
        if (adapter.file != null && !manifest.files.containsKey(adapter.file)) {
            throw JsonFields.refuse(where + ".file", adapter.file, "one of the bundle's files");
        }
    }

    private void checkRoute(String mode, Manifest.Route route) {
        if (!ROUTE_NAME.matcher(mode).matches() || mode.equals(RESERVED_NAME)) {
            throw JsonFields.fault("value", "routes." + mode, "a route's name is " + Json.brief(mode)
                    + ", expected letters, digits, -, _ and +, at most 64");
        }
        for (String name : route.adapters.keySet()) {
            if (manifest.adapterMode.equals("gated") && manifest.adapter(name) == null) {
                throw JsonFields.fault("value", "routes." + mode + ".adapters", "routes." + mode + " names adapter '" + name + "', which is not there");
            }
        }
        if (!Manifest.MODES.contains(mode)) {
            return; // a task: it may be asked for with any input
        }
        List<String> kinds = Arrays.asList(mode.split("\\+"));
        if (kinds.contains("image")) {
            need(mode, "vision", manifest.vision);
            need(mode, "processor.image", manifest.processor.image);
        }
        if (kinds.contains("audio")) {
            need(mode, "audio", manifest.audio);
            need(mode, "processor.audio", manifest.processor.audio);
        }
    }

    private static void need(String mode, String part, Object spec) {
        if (spec == null) {
            throw JsonFields.fault("value", part, "routes has '" + mode + "', but " + part + " is null");
        }
    }
}
