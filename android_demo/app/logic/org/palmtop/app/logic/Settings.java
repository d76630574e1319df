package org.palmtop.app.logic;

import java.io.File;
import java.io.IOException;
import java.util.Collections;
import java.util.LinkedHashMap;
import java.util.Map;
import org.palmtop.core.bundle.Json;
import org.palmtop.core.bundle.Manifest;
import org.palmtop.core.engine.GenerationOptions;

/** The user's settings for answers, kept in a file. Immutable: a change makes a new object. */
public final class Settings {
    /** The adapter that the model's routing table names for what is attached. */
    public static final String ADAPTER_BY_INPUT = "";
    /** No adapter. */
    public static final String ADAPTER_NONE = "-";

    public static final int MAX_ANSWER_TOKENS = 4096;
    private static final int MAX_FILE_BYTES = 1 << 20;

    public final String systemPrompt;
    /** Length and sampling are those of the model; the five values below wait until this is switched off. */
    public final boolean isAsModel;
    public final double temperature;
    public final int topK;
    public final double topP;
    public final double repetitionPenalty;
    public final int maxTokens;
    /** ADAPTER_BY_INPUT, ADAPTER_NONE, or an adapter's name. */
    public final String adapter;

    public Settings() {
        this("", true, 0, 0, 1, 1, 256, ADAPTER_BY_INPUT);
    }

    /** Values outside what is possible are brought to the nearest that is: sliders and fields cannot be wrong. */
    public Settings(
            String systemPrompt,
            boolean isAsModel,
            double temperature,
            int topK,
            double topP,
            double repetitionPenalty,
            int maxTokens,
            String adapter) {
        this.systemPrompt = systemPrompt;
        this.isAsModel = isAsModel;
        this.temperature = between(0, temperature, 2);
        this.topK = (int) between(0, topK, 1000);
        this.topP = between(0.05, topP, 1);
        this.repetitionPenalty = between(0.5, repetitionPenalty, 2);
        this.maxTokens = (int) between(1, maxTokens, MAX_ANSWER_TOKENS);
        this.adapter = adapter;
    }

    public Settings withAdapter(String name) {
        return new Settings(systemPrompt, isAsModel, temperature, topK, topP, repetitionPenalty, maxTokens, name);
    }

    /** For the engine; nothing is chosen where the model's own length and sampling are wanted. */
    public GenerationOptions options() {
        if (isAsModel) {
            return new GenerationOptions();
        }
        return new GenerationOptions()
                .temperature(temperature)
                .topK(topK)
                .topP(topP)
                .repetitionPenalty(repetitionPenalty)
                .maxTokens(maxTokens);
    }

    /** For the engine: null lets the route decide. An adapter the model does not have counts as by input. */
    public Map<String, Double> adapters(Manifest manifest) {
        if (adapter.equals(ADAPTER_NONE)) {
            return Collections.emptyMap();
        }
        return manifest.adapter(adapter) == null ? null : Collections.singletonMap(adapter, 1.0);
    }

    public void save(File file) throws IOException {
        Map<String, Object> map = new LinkedHashMap<String, Object>();
        map.put("system_prompt", systemPrompt);
        map.put("as_model", isAsModel);
        map.put("temperature", temperature);
        map.put("top_k", (long) topK);
        map.put("top_p", topP);
        map.put("repetition_penalty", repetitionPenalty);
        map.put("max_tokens", (long) maxTokens);
        map.put("adapter", adapter);
        TextFile.write(file, JsonWriter.write(map));
    }

    /** Saved settings, or the defaults if none are usable. */
    public static Settings load(File file) {
        try {
            Map<?, ?> map = (Map<?, ?>) Json.parse(TextFile.read(file, MAX_FILE_BYTES));
            return new Settings(
                    (String) map.get("system_prompt"),
                    !Boolean.FALSE.equals(map.get("as_model")),
                    ((Number) map.get("temperature")).doubleValue(),
                    ((Number) map.get("top_k")).intValue(),
                    ((Number) map.get("top_p")).doubleValue(),
                    ((Number) map.get("repetition_penalty")).doubleValue(),
                    ((Number) map.get("max_tokens")).intValue(),
                    (String) map.get("adapter"));
        } catch (IOException error) {
            return new Settings();
        } catch (RuntimeException error) { // another shape: an older app's, or not ours
            return new Settings();
        }
    }

    private static double between(double low, double value, double high) {
        return value >= low ? Math.min(value, high) : low; // NaN becomes low
    }
}
