package org.palmtop.core.bundle;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.List;
import java.util.Map;
import org.palmtop.core.bundle.JsonFields.Field;

/** One kind of state of a decoder's layers, by the rules of {@code runtime/bundle/states.py}. */
public final class State {
    static final String BATCH = "batch";
    static final String TOKENS = "tokens";
    private static final List<String> DTYPES = Arrays.asList("float32", "int8", "int4");
    private static final int[] BITS = {32, 8, 4};
    private static final int MAX_STATES = 8;
    private static final long MAX_TOKEN_ELEMENTS = 1 << 20;
    private static final long MAX_FIXED_ELEMENTS = 1 << 26;

    static final Field[] FIELDS = {
        new Field("name", "str"),
        new Field("input", "str"),
        new Field("output", "str"),
        new Field("shape", "tuple[int | str, ...]", "1", "67108864"),
        Field.oneOf("dtype", DTYPES),
        new Field("layers", "tuple[int, ...]", "0", "4095"),
        Field.oneOf("rewind", Arrays.asList("cut", "checkpoint")),
    };

    public final String name;
    /** The graph's input and output, with %d for the layer. */
    public final String input;

    public final String output;
    /** Axes of one layer's state: sizes, "batch" and, where it grows with the sequence, "tokens". */
    public final List<Object> shape;

    public final int bits;
    public final int[] layers;
    /** Whether tokens are removed by cutting rows; otherwise only an earlier copy can restore it. */
    public final boolean isCut;

    State(Map<String, Object> data) {
        name = (String) data.get("name");
        input = (String) data.get("input");
        output = (String) data.get("output");
        shape = Collections.unmodifiableList(new ArrayList<Object>((List<?>) data.get("shape")));
        bits = BITS[DTYPES.indexOf(data.get("dtype"))];
        layers = ProcessorSpec.integers(data.get("layers"));
        isCut = "cut".equals(data.get("rewind"));
    }

    /** Whether it grows with the sequence. */
    public boolean isPerToken() {
        return shape.contains(TOKENS);
    }

    /** Bytes of all layers and one sequence: per token if it grows, otherwise of the whole state. */
    public long sizeBytes() {
        return layers.length * elements() * bits / 8;
    }

    /** Size of an axis in the graph's tensor; two elements of 4 bits share a byte of the last. */
    long stored(int axis) {
        long size = ((Number) shape.get(axis)).longValue();
        return bits == 4 && axis == shape.size() - 1 ? size / 2 : size;
    }

    private long elements() {
        double product = 1;
        for (Object axis : shape) {
            product *= axis instanceof Number ? ((Number) axis).doubleValue() : 1;
        }
        return (long) product; // beyond long it is far above every limit
    }

    static void check(List<State> states, int numLayers, String where) {
        if (states.isEmpty() || states.size() > MAX_STATES) {
            throw JsonFields.refuse(where, states.size(), "1 to " + MAX_STATES + " states");
        }
        List<String> names = new ArrayList<String>();
        for (State state : states) {
            state.check(where + "[" + names.size() + "]", names, numLayers);
            names.add(state.name);
        }
    }

    private void check(String here, List<String> before, int numLayers) {
        if (!name.matches("[A-Za-z_][A-Za-z0-9_]*") || before.contains(name)) {
            throw JsonFields.refuse(here + ".name", name, "letters, digits and _, each name once");
        }
        checkPattern(here + ".input", input);
        checkPattern(here + ".output", output);
        boolean isShape = shape.size() > 1 && BATCH.equals(shape.get(0)) && shape.get(shape.size() - 1) instanceof Number;
        int grows = 0;
        for (Object axis : shape.subList(Math.min(1, shape.size()), shape.size())) {
            isShape &= axis instanceof Number || TOKENS.equals(axis);
            grows += TOKENS.equals(axis) ? 1 : 0;
        }
        if (!isShape || grows > 1) {
            throw JsonFields.refuse(
                    here + ".shape", shape, "'batch', then sizes, one of which may be 'tokens', a size last");
        }
        long most = isPerToken() ? MAX_TOKEN_ELEMENTS : MAX_FIXED_ELEMENTS;
        if (elements() > most) {
            throw JsonFields.refuse(here + ".shape", shape, "at most " + most + " elements of known size");
        }
        if (bits == 4 && ((Number) shape.get(shape.size() - 1)).longValue() % 2 != 0) {
            throw JsonFields.refuse(here + ".shape", shape, "an even last size, two elements share a byte");
        }
        if (isCut && !isPerToken()) {
            throw JsonFields.refuse(here + ".rewind", "cut", "'checkpoint' for a state of fixed size");
        }
        boolean isAscending = layers.length > 0 && layers[layers.length - 1] < numLayers;
        for (int i = 1; i < layers.length; i++) {
            isAscending &= layers[i - 1] < layers[i];
        }
        if (!isAscending) {
            List<Object> found = new ArrayList<Object>();
            for (int layer : layers) {
                found.add(layer);
            }
            throw JsonFields.refuse(here + ".layers", found, "ascending numbers below num_layers, " + numLayers);
        }
    }

    private static void checkPattern(String where, String pattern) {
        if (!pattern.contains("%d") || pattern.indexOf('%') != pattern.lastIndexOf('%')) {
            throw JsonFields.refuse(where, pattern, "a name with one %d for the layer");
        }
    }
}
