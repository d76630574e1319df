package org.palmtop.core.text;

import java.io.BufferedReader;
import java.io.ByteArrayOutputStream;
import java.io.File;
import java.io.FileInputStream;
import java.io.IOException;
import java.io.InputStreamReader;
import java.nio.charset.Charset;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;
import org.palmtop.core.PalmtopException;
import org.palmtop.core.bundle.Json;

/**
 * tokenizer.json of a bundle: byte-level BPE, the same ids as the tokenizers library, without it.
 *
 * <p>genai has a tokenizer too, but it cannot spell out a special token that a user typed, and its ids are not always
 * those of the tokenizers library. Anything but byte-level BPE is refused when the bundle is opened.
 */
public final class Tokenizer {
    static final Charset UTF_8 = Charset.forName("UTF-8");

    private final Vocabulary vocabulary = new Vocabulary();
    private final Merges merges = new Merges();
    private final int[] idOfByte = new int[256];
    private final Set<Integer> addedIds = new HashSet<Integer>();
    private final Set<Integer> specialIds = new HashSet<Integer>();
    private final Map<Integer, String> addedTexts = new HashMap<Integer, String>();
    private AddedTokens added = new AddedTokens(new ArrayList<Object>());
    private WordSplitter splitter;
    private boolean ignoresMerges;
    private boolean isByteLevel;

    public Tokenizer(File path) {
        try (BufferedReader reader =
                new BufferedReader(new InputStreamReader(new FileInputStream(path), UTF_8), 1 << 16)) {
            readDocument(new Json(reader));
        } catch (IOException | ClassCastException | NullPointerException error) {
            throw PalmtopException.bundle(path + ": not a readable tokenizer: " + error.getMessage());
        }
        if (splitter == null || !isByteLevel) {
            throw cannot("no byte-level decoder and pre-tokenizer");
        }
        for (AddedTokens.Added token : added.all()) {
            byte[] bytes = ByteLevel.bytesOf(token.text);
            vocabulary.add(token.id, bytes != null ? bytes : token.text.getBytes(UTF_8), false);
            addedTexts.put(token.id, token.text);
            if (token.text.codePointCount(0, token.text.length()) > 1) {
                addedIds.add(token.id);
            }
            if (token.isSpecial) {
                specialIds.add(token.id);
            }
        }
        for (int value = 0; value < 256; value++) {
            idOfByte[value] = vocabulary.find(new byte[] {(byte) value}, 0, 1);
        }
    }

    static PalmtopException cannot(String what) {
        return PalmtopException.bundle("tokenizer.json: uses " + what
                + ", which the phone cannot reproduce; run this bundle on a computer");
    }

    List<AddedTokens.Added> added() {
        return added.all();
    }

    /** Ids of a text by itself; added tokens in it are recognised. */
    public int[] encode(String text) {
        final Ids ids = new Ids();
        added.split(text, new AddedTokens.Sink() {
            @Override
            public void text(String rest) {
                encodeWords(rest, ids);
            }

            @Override
            public void token(int id) {
                ids.add(id);
            }
        });
        return ids.toArray();
    }

    /** Ids of a text in which nothing is an added token. */
    public int[] spell(String text) {
        Ids ids = new Ids();
        encodeWords(text, ids);
        if (!ids.holdsAny(addedIds)) {
            return ids.toArray();
        }
        // The vocabulary holds an added token as a word of its own; single characters cannot make it.
        Ids letters = new Ids();
        for (int i = 0; i < text.length(); i = text.offsetByCodePoints(i, 1)) {
            encodeWords(text.substring(i, text.offsetByCodePoints(i, 1)), letters);
        }
        return letters.toArray();
    }

    /** Text without special tokens. */
    public String decode(int[] ids) {
        ByteArrayOutputStream bytes = new ByteArrayOutputStream();
        for (int id : ids) {
            byte[] token = visibleBytes(id);
            bytes.write(token, 0, token.length);
        }
        return new String(bytes.toByteArray(), UTF_8);
    }

    /** The text of an added token; null if the id is none. */
    public String addedText(int id) {
        return addedTexts.get(id);
    }

    /** A token's text as the vocabulary has it; null if there is no such token. */
    String textOf(int id) {
        if (addedTexts.containsKey(id)) {
            return addedTexts.get(id);
        }
        byte[] bytes = vocabulary.bytesOf(id);
        return bytes == null ? null : ByteLevel.textOf(bytes);
    }

    /** Text of an id: empty for a special token or an unknown id. */
    byte[] visibleBytes(int id) {
        byte[] bytes = specialIds.contains(id) ? null : vocabulary.bytesOf(id);
        return bytes != null ? bytes : new byte[0];
    }

    private void encodeWords(String text, Ids ids) {
        for (String word : splitter.split(text)) {
            byte[] bytes = word.getBytes(UTF_8);
            int whole = ignoresMerges ? vocabulary.find(bytes, 0, bytes.length) : -1;
            if (whole >= 0) {
                ids.add(whole);
                continue;
            }
            int[] parts = new int[bytes.length];
            int length = 0;
            for (byte value : bytes) {
                int id = idOfByte[value & 255];
                if (id >= 0) { // a byte that is no token is left out, as by the tokenizers library
                    parts[length++] = id;
                }
            }
            length = merges.apply(parts, length);
            for (int i = 0; i < length; i++) {
                ids.add(parts[i]);
            }
        }
    }

    private void readDocument(Json json) throws IOException {
        json.beginObject();
        for (String key = json.key(); key != null; key = json.key()) {
            if (key.equals("model")) {
                readModel(json);
                continue;
            }
            Object value = json.value();
            if (key.equals("added_tokens")) {
                added = new AddedTokens((List<?>) value);
            } else if (key.equals("pre_tokenizer")) {
                splitter = new WordSplitter(value);
            } else if (key.equals("decoder")) {
                isByteLevel = value instanceof Map && "ByteLevel".equals(((Map<?, ?>) value).get("type"));
            } else if (key.equals("normalizer") && value != null) {
                throw cannot("the normalizer " + Json.brief(((Map<?, ?>) value).get("type")));
            }
        }
        json.end();
    }

    private void readModel(Json json) throws IOException {
        json.beginObject();
        for (String key = json.key(); key != null; key = json.key()) {
            if (key.equals("vocab") && json.isNext('{')) {
                readVocabulary(json);
            } else if (key.equals("merges") && json.isNext('[')) {
                readMerges(json);
            } else {
                Object value = json.value();
                ignoresMerges |= key.equals("ignore_merges") && Boolean.TRUE.equals(value);
                boolean isPlain = value == null || value.equals("") || Boolean.FALSE.equals(value);
                boolean isOther = key.equals("type") && !"BPE".equals(value);
                boolean isUnread = key.endsWith("_prefix") || key.endsWith("_suffix") || key.equals("byte_fallback");
                if (isOther || !isPlain && (isUnread || key.equals("dropout"))) {
                    throw cannot("a model with " + key + " " + Json.brief(value));
                }
            }
        }
    }

    private void readVocabulary(Json json) throws IOException {
        json.beginObject();
        for (String token = json.key(); token != null; token = json.key()) {
            long id = (Long) json.value();
            if (id < 0 || id >= 1 << 24) {
                throw PalmtopException.bundle("tokenizer.json: a token has id " + id + ", expected 0 to 16777215");
            }
            byte[] bytes = ByteLevel.bytesOf(token);
            vocabulary.add((int) id, bytes != null ? bytes : token.getBytes(UTF_8), bytes != null);
        }
    }

    private void readMerges(Json json) throws IOException {
        json.beginArray();
        while (json.hasElement()) {
            Object merge = json.value();
            String left;
            String right;
            if (merge instanceof String) { // the older spelling: "a b"
                left = ((String) merge).substring(0, ((String) merge).indexOf(' '));
                right = ((String) merge).substring(left.length() + 1);
            } else {
                left = (String) ((List<?>) merge).get(0);
                right = (String) ((List<?>) merge).get(1);
            }
            int[] ids = {find(left), find(right), find(left + right)};
            if (ids[0] < 0 || ids[1] < 0 || ids[2] < 0) {
                throw PalmtopException.bundle("tokenizer.json: the merge of " + Json.brief(left) + " and "
                        + Json.brief(right) + " is not in the vocabulary");
            }
            merges.add(ids[0], ids[1], ids[2]);
        }
    }

    private int find(String token) {
        byte[] bytes = ByteLevel.bytesOf(token);
        return bytes == null ? -1 : vocabulary.find(bytes, 0, bytes.length);
    }
}
