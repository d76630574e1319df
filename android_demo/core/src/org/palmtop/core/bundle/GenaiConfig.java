package org.palmtop.core.bundle;

import java.io.File;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.TreeSet;
import org.palmtop.core.PalmtopException;

/** {@code genai_config.json} must be found as it follows from the manifest: genai loads any library it names. */
public final class GenaiConfig {
    private static final long MAX_BYTES = 1L << 20;

    private GenaiConfig() {}

    /** Compare the bundle's file with what its manifest gives. */
    public static void check(PalmtopBundle bundle) {
        File path = bundle.file("genai_config.json");
        Object found = BundleFiles.readJson(path, MAX_BYTES, "cannot be read as JSON");
        String where = firstDifference(found, expected(bundle.manifest()), "");
        if (where != null) {
            throw PalmtopException.bundle(path + ": " + (where.isEmpty() ? "its content" : where)
                    + " is not what the manifest gives; export the bundle again");
        }
    }

    private static Map<String, Object> expected(Manifest manifest) {
        Manifest.Decoder decoder = manifest.decoder;
        checkStates(decoder);
        State key = decoder.states.get(0);
        State value = decoder.states.get(1);
        ProcessorSpec.Text text = manifest.processor.text;
        List<Object> eosIds = new ArrayList<Object>();
        for (int id : text.eosIds) {
            eosIds.add((long) id);
        }
        Map<String, Object> graph = object(
                "filename", decoder.file,
                "hidden_size", decoder.hiddenSize,
                "head_size", key.stored(3),
                "num_attention_heads", decoder.numHeads,
                "num_key_value_heads", key.stored(1),
                "num_hidden_layers", decoder.numLayers,
                "session_options", object("log_id", "palmtop", "provider_options", new ArrayList<Object>()),
                "inputs", object(
                        "input_ids", "input_ids",
                        "attention_mask", "attention_mask",
                        "past_key_names", key.input,
                        "past_value_names", value.input),
                "outputs", object(
                        "logits", "logits",
                        "present_key_names", key.output,
                        "present_value_names", value.output));
        return object(
                "model", object(
                        "type", "llama",
                        "bos_token_id", text.bosId != null ? text.bosId : text.padId,
                        "eos_token_id", eosIds,
                        "pad_token_id", text.padId,
                        "vocab_size", decoder.vocabSize,
                        "context_length", decoder.contextLength,
                        "decoder", graph),
                "search", object(
                        "do_sample", false,
                        "max_length", decoder.contextLength,
                        "past_present_share_buffer", true,
                        "temperature", 1.0,
                        "top_k", 1,
                        "top_p", 1.0));
    }

    /** The two states that genai allocates: [batch, heads, tokens, size] in every layer, of one shape and type. */
    private static void checkStates(Manifest.Decoder decoder) {
        StringBuilder names = new StringBuilder();
        for (State state : decoder.states) {
            names.append(names.length() > 0 ? ", " : "").append(state.name);
        }
        if (!names.toString().equals("key, value")) {
            throw JsonFields.refuse("decoder.states", names.toString(), "key and value, which are what genai runs");
        }
        State key = decoder.states.get(0);
        State value = decoder.states.get(1);
        if (key.shape.size() != 4 || !State.TOKENS.equals(key.shape.get(2)) || key.layers.length != decoder.numLayers) {
            throw JsonFields.refuse("decoder.states[0]", key.shape, "[batch, heads, tokens, size] in every layer");
        }
        boolean isSame = key.shape.equals(value.shape) && key.bits == value.bits && key.isCut == value.isCut;
        if (!isSame || key.layers.length != value.layers.length) {
            throw JsonFields.refuse("decoder.states[1]", value.shape, "the shape, type and layers of the keys");
        }
        if (decoder.numHeads % key.stored(1) != 0) {
            throw JsonFields.refuse(
                    "decoder.states[0].shape", key.shape, "heads that divide num_heads, " + decoder.numHeads);
        }
    }

    private static Map<String, Object> object(Object... keysAndValues) {
        Map<String, Object> result = new LinkedHashMap<String, Object>();
        for (int i = 0; i < keysAndValues.length; i += 2) {
            result.put((String) keysAndValues[i], keysAndValues[i + 1]);
        }
        return result;
    }

    /** The dotted name of the first key that differs, "" for the whole, or null when nothing does. */
    private static String firstDifference(Object found, Object expected, String where) {
        if (!(found instanceof Map) || !(expected instanceof Map)) {
            return isEqual(found, expected) ? null : where;
        }
        Map<String, Object> left = JsonFields.object(found);
        Map<String, Object> right = JsonFields.object(expected);
        TreeSet<String> keys = new TreeSet<String>(left.keySet());
        keys.addAll(right.keySet());
        for (String key : keys) {
            String inner = where.isEmpty() ? key : where + "." + key;
            if (left.containsKey(key) != right.containsKey(key)) {
                return inner;
            }
            String place = firstDifference(left.get(key), right.get(key), inner);
            if (place != null) {
                return place;
            }
        }
        return null;
    }

    private static boolean isEqual(Object found, Object expected) {
        if (found instanceof Number && expected instanceof Number) {
            return ((Number) found).doubleValue() == ((Number) expected).doubleValue();
        }
        if (found instanceof List && expected instanceof List) {
            return found.equals(expected);
        }
        return found == null ? expected == null : found.equals(expected);
    }
}
