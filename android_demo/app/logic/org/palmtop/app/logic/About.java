package org.palmtop.app.logic;

import java.io.IOException;
import java.io.InputStream;
import java.util.LinkedHashMap;
import java.util.Map;
import org.palmtop.core.bundle.Json;

/** Build information of the app: {@code assets/about.json}. */
public final class About {
    private static final int MAX_FILE_BYTES = 1 << 20;

    /** Version of the app. */
    public final String version;
    /** Folder name of the packaged model. */
    public final String model;
    /** Hash of the packaged model's manifest: another model has another one. */
    public final String modelSha256;
    /** Label and value of every version and hash, in the order to be shown. */
    public final Map<String, String> lines;
    /** Name and file among the assets of every licence. */
    public final Map<String, String> licences;

    private About(Map<?, ?> map) {
        version = (String) map.get("version");
        model = (String) map.get("model");
        modelSha256 = (String) map.get("model_sha256");
        lines = texts((Map<?, ?>) map.get("lines"));
        licences = texts((Map<?, ?>) map.get("licences"));
    }

    public static About read(InputStream stream) throws IOException {
        return new About((Map<?, ?>) Json.parse(TextFile.read(stream, MAX_FILE_BYTES)));
    }

    /** All lines below one another. */
    public String text() {
        StringBuilder text = new StringBuilder();
        for (Map.Entry<String, String> line : lines.entrySet()) {
            text.append(text.length() > 0 ? "\n\n" : "").append(line.getKey()).append('\n').append(line.getValue());
        }
        return text.toString();
    }

    private static Map<String, String> texts(Map<?, ?> map) {
        Map<String, String> texts = new LinkedHashMap<String, String>();
        for (Map.Entry<?, ?> entry : map.entrySet()) {
            texts.put((String) entry.getKey(), (String) entry.getValue());
        }
        return texts;
    }
}
