package org.palmtop.core.bundle;

import java.util.Arrays;
import java.util.Collections;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import org.palmtop.core.bundle.JsonFields.Field;

/** Processor settings of a model in the manifest ({@code bundle/processor_config.py}). */
public final class ProcessorSpec {
    private static final String MAX_ID = "16777215";

    /** A kind is a class of the same name in {@code core.media}. */
    private static final List<String> AUDIO_KINDS = Collections.singletonList("log_mel");

    private static final List<String> GENERATION =
            Arrays.asList("max_tokens", "temperature", "top_k", "top_p", "min_p", "repetition_penalty");
    private static final double[] LEAST = {1, 0, 0, 1e-6, 0, 0.01};
    private static final double[] MOST = {1 << 20, 100, 16777215, 1, 1, 100};

    public final Text text;
    /** Null where the model takes no images. */
    public final ImageSpec image;
    /** Null where the model takes no sounds. */
    public final Audio audio;

    private ProcessorSpec(Text text, ImageSpec image, Audio audio) {
        this.text = text;
        this.image = image;
        this.audio = audio;
    }

    /** Settings of tokenization and generation. */
    public static final class Text {
        /** Null where there is none. */
        public final Integer bosId;
        public final int[] eosIds;
        public final int padId;
        public final boolean addsBos;
        public final String imagePlaceholder;
        public final String audioPlaceholder;
        /** Sampling settings of the checkpoint, by name; empty without any. */
        public final Map<String, Double> generation;

        Text(Map<String, Object> data) {
            bosId = data.get("bos_id") == null ? null : integer(data, "bos_id");
            eosIds = integers(data.get("eos_ids"));
            padId = integer(data, "pad_id");
            addsBos = (Boolean) data.get("adds_bos");
            imagePlaceholder = (String) data.get("image_placeholder");
            audioPlaceholder = (String) data.get("audio_placeholder");
            Map<String, Double> given = new LinkedHashMap<String, Double>();
            if (data.get("generation") != null) {
                for (Map.Entry<String, Object> entry : JsonFields.object(data.get("generation")).entrySet()) {
                    given.put(entry.getKey(), ((Number) entry.getValue()).doubleValue());
                }
            }
            generation = Collections.unmodifiableMap(given);
        }
    }

    /** Kaldi-style log-mel features and their reduction to feature rows. */
    public static final class Audio {
        public final int tokenId;
        public final int rateHz;
        public final int nFft;
        public final int winLength;
        public final int hopLength;
        public final double preemphasis;
        public final int nMels;
        public final double melMinHz;
        public final double melMaxHz;
        public final int compressionRate;
        public final int downsampleRate;
        public final int windowSteps;

        Audio(Map<String, Object> data) {
            tokenId = integer(data, "token_id");
            rateHz = integer(data, "rate_hz");
            nFft = integer(data, "n_fft");
            winLength = integer(data, "win_length");
            hopLength = integer(data, "hop_length");
            preemphasis = number(data, "preemphasis");
            nMels = integer(data, "n_mels");
            melMinHz = number(data, "mel_min_hz");
            melMaxHz = number(data, "mel_max_hz");
            compressionRate = integer(data, "compression_rate");
            downsampleRate = integer(data, "downsample_rate");
            windowSteps = integer(data, "window_steps");
        }
    }

    static ProcessorSpec read(Map<String, Object> data) {
        JsonFields.checkKeys(data, "processor", Arrays.asList("text", "image", "audio"));
        Text text = new Text(JsonFields.read(
                data.get("text"),
                "processor.text",
                new Field("bos_id", "int | None", "0", MAX_ID),
                new Field("eos_ids", "tuple[int, ...]", "0", MAX_ID),
                new Field("end_of_turn_id", "int | None", "0", MAX_ID),
                new Field("pad_id", "int", "0", MAX_ID),
                new Field("adds_bos", "bool"),
                new Field("image_placeholder", "str"),
                new Field("audio_placeholder", "str"),
                new Field("thinking", "tuple[str, str] | None"),
                new Field("generation", "dict[str, float] | None")));
        checkGeneration(text.generation);
        checkThinking(JsonFields.object(data.get("text")).get("thinking"));
        checkKind(data.get("image"), "processor.image", ImageSpec.KINDS);
        checkKind(data.get("audio"), "processor.audio", AUDIO_KINDS);
        ImageSpec image = ImageSpec.read(data.get("image"));
        Audio audio = data.get("audio") == null ? null : readAudio(data.get("audio"));
        if (audio != null) {
            check(audio);
        }
        return new ProcessorSpec(text, image, audio);
    }

    /** The marks of a reasoning model's thinking, or null; this app shows it as part of the answer. */
    private static void checkThinking(Object marks) {
        if (marks != null && ((List<?>) marks).contains("")) {
            throw JsonFields.refuse("processor.text.thinking", marks, "two texts that are not empty");
        }
    }

    private static void checkGeneration(Map<String, Double> generation) {
        for (Map.Entry<String, Double> entry : generation.entrySet()) {
            String name = entry.getKey();
            int at = GENERATION.indexOf(name);
            String where = "processor.text.generation." + name;
            if (at < 0) {
                throw JsonFields.refuse(where, entry.getValue(), "one of " + GENERATION.toString().replaceAll("[\\[\\]]", ""));
            }
            double value = entry.getValue();
            if (!(value >= LEAST[at] && value <= MOST[at])) {
                throw JsonFields.refuse(where, value, LEAST[at] + " to " + MOST[at]);
            }
            if ((name.equals("max_tokens") || name.equals("top_k")) && value != Math.rint(value)) {
                throw JsonFields.refuse(where, value, "a whole number");
            }
        }
    }

    /** What fields there are depends on the kind, so it is looked at first. */
    private static void checkKind(Object data, String where, List<String> kinds) {
        if (data instanceof Map) {
            Object kind = JsonFields.object(data).get("kind");
            if (!JsonFields.object(data).containsKey("kind")) {
                throw JsonFields.fault("missing", where + ".kind", where + ".kind is missing");
            }
            if (!(kind instanceof String) || !kinds.contains(kind)) {
                throw JsonFields.refuse(kind instanceof String ? "choice" : "type", where + ".kind", kind, "one of " + kinds.toString().replaceAll("[\\[\\]]", ""));
            }
        }
    }

    private static Audio readAudio(Object data) {
        return new Audio(JsonFields.read(
                data,
                "processor.audio",
                Field.oneOf("kind", AUDIO_KINDS),
                new Field("token_id", "int", "0", MAX_ID),
                new Field("rate_hz", "int", "1000", "768000"),
                new Field("n_fft", "int", "2", "65536"),
                new Field("win_length", "int", "1", "65536"),
                new Field("hop_length", "int", "1", "65536"),
                new Field("preemphasis", "float", "-1", "1"),
                new Field("n_mels", "int", "1", "1024"),
                new Field("mel_min_hz", "float", "0", "384000"),
                new Field("mel_max_hz", "float", "0", "384000"),
                new Field("compression_rate", "int", "1", "1024"),
                new Field("downsample_rate", "int", "1", "1024"),
                new Field("window_steps", "int", "1", "65536")));
    }

    private static void check(Audio spec) {
        if (spec.winLength > spec.nFft) {
            throw JsonFields.refuse("processor.audio.win_length", spec.winLength, "at most n_fft, " + spec.nFft);
        }
        if (!(spec.melMinHz < spec.melMaxHz && spec.melMaxHz <= spec.rateHz / 2.0)) {
            String expected = "more than mel_min_hz, " + spec.melMinHz
                    + ", and at most half of rate_hz, " + spec.rateHz;
            throw JsonFields.refuse("processor.audio.mel_max_hz", spec.melMaxHz, expected);
        }
    }

    static int integer(Map<String, Object> data, String key) {
        return ((Number) data.get(key)).intValue(); // its limits are checked
    }

    static double number(Map<String, Object> data, String key) {
        return ((Number) data.get(key)).doubleValue();
    }

    static int[] integers(Object value) {
        List<?> list = (List<?>) value;
        int[] result = new int[list.size()];
        for (int i = 0; i < result.length; i++) {
            result[i] = ((Number) list.get(i)).intValue();
        }
        return result;
    }

    static double[] numbers(Object value) {
        List<?> list = (List<?>) value;
        double[] result = new double[list.size()];
        for (int i = 0; i < result.length; i++) {
            result[i] = ((Number) list.get(i)).doubleValue();
        }
        return result;
    }
}
