package org.palmtop.app.logic;

import java.io.IOException;
import java.io.InputStream;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import org.palmtop.core.bundle.Json;

/** A question that the packaged model can answer, with its picture and sound among the app's assets. */
public final class Example {
    private static final int MAX_FILE_BYTES = 1 << 20;

    public final String mode;
    public final String question;
    /** File names; null where there is none. */
    public final String image;
    public final String audio;

    private Example(Map<?, ?> map) {
        mode = (String) map.get("mode");
        question = (String) map.get("text");
        image = (String) map.get("image");
        audio = (String) map.get("audio");
    }

    public static List<Example> read(InputStream stream) throws IOException {
        List<Example> examples = new ArrayList<Example>();
        for (Object map : (List<?>) Json.parse(TextFile.read(stream, MAX_FILE_BYTES))) {
            examples.add(new Example((Map<?, ?>) map));
        }
        return examples;
    }
}
