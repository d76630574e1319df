package org.palmtop.core.text;

import java.io.File;
import java.util.ArrayList;
import java.util.Collections;
import java.util.HashMap;
import java.util.HashSet;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.regex.Pattern;
import org.palmtop.core.PalmtopException;
import org.palmtop.core.bundle.Json;
import org.palmtop.core.bundle.ProcessorSpec;

/** Messages become token ids with a place for every image and sound; the rules of {@code processor/text.py}. */
public final class TextProcessor {
    private static final Pattern CONTROL_SHAPE = Pattern.compile("<\\|[^\\n]*\\|>");
    private static final Pattern ROLE = Pattern.compile("[A-Za-z][A-Za-z0-9_-]*");

    private final ProcessorSpec spec;
    private final Tokenizer tokenizer;
    private final ChatTemplate template;
    private final Map<String, SpecialTokens.Placeholder> placeholders = new LinkedHashMap<String, SpecialTokens.Placeholder>();
    private final SpecialTokens guard;
    private final boolean takesText;
    private final boolean takesNull;

    /** One message as this class needs it: {@code kinds} of its media, "image" or "audio", in order. */
    public static final class Turn {
        final String role;
        final String text;
        final List<String> kinds;

        public Turn(String role, String text, List<String> kinds) {
            this.role = role;
            this.text = text;
            this.kinds = kinds;
        }
    }

    public TextProcessor(File tokenizerJson, String chatTemplate, ProcessorSpec spec) {
        this.spec = spec;
        tokenizer = new Tokenizer(tokenizerJson);
        template = new ChatTemplate(chatTemplate);
        if (spec.image != null) {
            addPlaceholder("image", spec.text.imagePlaceholder, spec.image.tokenId);
        }
        if (spec.audio != null) {
            addPlaceholder("audio", spec.text.audioPlaceholder, spec.audio.tokenId);
        }
        Set<String> special = new HashSet<String>();
        Set<String> other = new HashSet<String>();
        for (AddedTokens.Added token : tokenizer.added()) {
            boolean isBlank = TemplateValues.strip(token.text).isEmpty();
            boolean isWritten = template.literalText().contains(token.text) && !isBlank;
            if (token.isSpecial) {
                special.add(token.text);
            } else if (isWritten || CONTROL_SHAPE.matcher(token.text).matches()) {
                other.add(token.text);
            }
        }
        other.removeAll(special);
        guard = new SpecialTokens(special, other, new ArrayList<SpecialTokens.Placeholder>(placeholders.values()));
        takesText = template.takesText();
        takesNull = template.takesNull();
    }

    /** Render and tokenise a conversation, ready for an answer. */
    public Prompt prompt(List<Turn> turns) {
        if (turns.isEmpty()) {
            throw PalmtopException.input("messages: found an empty list, expected a list of messages with role and content");
        }
        List<String> texts = new ArrayList<String>();
        for (Turn turn : turns) {
            texts.add(turn.text == null ? "" : turn.text);
            checkUnicode(turn.text);
        }
        texts.add(template.literalText());
        SpecialTokens.Marks marks = SpecialTokens.Marks.unusedIn(texts);
        Map<String, Integer> counts = new HashMap<String, Integer>();
        List<Map<String, Object>> messages = new ArrayList<Map<String, Object>>();
        for (int i = 0; i < turns.size(); i++) {
            messages.add(message(turns.get(i), i, marks, counts));
        }
        String rendered = template.render(messages, true, specialTokens());
        List<SpecialTokens.Place> places = new ArrayList<SpecialTokens.Place>();
        Ids ids = new Ids();
        for (SpecialTokens.Segment segment : guard.split(rendered, marks, places)) {
            ids.addAll(segment.isSpelled ? tokenizer.spell(segment.text) : tokenizer.encode(segment.text));
        }
        int[] all = ids.toArray();
        if (spec.text.addsBos && spec.text.bosId != null && (all.length == 0 || all[0] != spec.text.bosId)) {
            int[] longer = new int[all.length + 1];
            System.arraycopy(all, 0, longer, 1, all.length);
            longer[0] = spec.text.bosId;
            all = longer;
        }
        return new Prompt(all, findMedia(all, turns, places));
    }

    /** Ids of ordinary text: special tokens in it are spelled out. */
    public int[] encode(String text) {
        checkUnicode(text);
        SpecialTokens.Marks marks = SpecialTokens.Marks.unusedIn(Collections.singletonList(text));
        Ids ids = new Ids();
        List<SpecialTokens.Place> places = new ArrayList<SpecialTokens.Place>();
        for (SpecialTokens.Segment segment : guard.split(guard.mark(text, marks, false), marks, places)) {
            ids.addAll(segment.isSpelled ? tokenizer.spell(segment.text) : tokenizer.encode(segment.text));
        }
        return ids.toArray();
    }

    /** Text without special tokens. */
    public String decode(int[] ids) {
        return tokenizer.decode(ids);
    }

    /** Ids of the model's own markup: special tokens in it are recognised. */
    public int[] markup(String written) {
        return tokenizer.encode(written);
    }

    /** A new incremental detokeniser. */
    public Utf8Pieces pieces() {
        return new Utf8Pieces(tokenizer);
    }

    private void addPlaceholder(String kind, String text, int id) {
        String token = tokenizer.addedText(id);
        if (token == null || tokenizer.encode(token).length != 1 || tokenizer.encode(token)[0] != id) {
            throw PalmtopException.bundle("tokenizer.json: the placeholder id " + id + " is "
                    + Json.brief(token) + ", expected an added token");
        }
        placeholders.put(kind, new SpecialTokens.Placeholder(kind, text, token));
    }

    private Map<String, String> specialTokens() {
        Map<String, String> names = new HashMap<String, String>();
        name(names, "bos_token", spec.text.bosId);
        name(names, "pad_token", spec.text.padId);
        name(names, "eos_token", spec.text.eosIds.length > 0 ? (Integer) spec.text.eosIds[0] : null);
        return names;
    }

    private void name(Map<String, String> names, String name, Integer id) {
        String text = id == null ? null : tokenizer.textOf(id);
        if (text != null) {
            names.put(name, text);
        }
    }

    /** Message of a turn for the template. */
    private Map<String, Object> message(Turn turn, int index, SpecialTokens.Marks marks, Map<String, Integer> counts) {
        if (!ROLE.matcher(turn.role).matches()) {
            throw PalmtopException.input("messages[" + index + "].role: found " + Json.brief(turn.role)
                    + ", expected a name such as 'user'");
        }
        List<String> pieces = new ArrayList<String>();
        List<Object> parts = new ArrayList<Object>();
        for (String kind : turn.kinds) {
            SpecialTokens.Placeholder placeholder = placeholders.get(kind);
            if (placeholder == null) {
                throw PalmtopException.input(
                        "messages[" + index + "]: found an " + kind + " part, but the model takes none");
            }
            int number = (counts.containsKey(kind) ? counts.get(kind) : 0) + 1;
            counts.put(kind, number);
            pieces.add(placeholder.write(number));
            parts.add(part(kind, kind, "<" + kind + ">"));
        }
        Map<String, Object> message = new LinkedHashMap<String, Object>();
        message.put("role", turn.role);
        String text = turn.text == null ? null : guard.mark(turn.text, marks, turn.role.equals("assistant"));
        if (takesText) {
            if (text == null && !takesNull) {
                text = "";
            }
            message.put("content", text == null ? null : joined(pieces, text));
        } else {
            if (text != null && !text.isEmpty()) {
                parts.add(part("text", "text", text));
            }
            message.put("content", parts);
        }
        return message;
    }

    /** Media, then the text, with the separator of the kind of image processor between them. */
    private String joined(List<String> media, String text) {
        String separator = spec.image == null ? "" : spec.image.separator;
        StringBuilder content = new StringBuilder();
        for (String each : media) {
            content.append(content.length() > 0 ? separator : "").append(each);
        }
        return content.append(content.length() > 0 && !text.isEmpty() ? separator : "").append(text).toString();
    }

    private static Map<String, Object> part(String type, String key, String value) {
        Map<String, Object> part = new LinkedHashMap<String, Object>();
        part.put("type", type);
        part.put(key, value);
        return part;
    }

    /** Match the placeholders of the prompt with the items of the messages. */
    private int[] findMedia(int[] ids, List<Turn> turns, List<SpecialTokens.Place> places) {
        List<Integer> positions = new ArrayList<Integer>();
        for (int i = 0; i < ids.length; i++) {
            boolean isImage = spec.image != null && ids[i] == spec.image.tokenId;
            if (isImage || spec.audio != null && ids[i] == spec.audio.tokenId) {
                positions.add(i);
            }
        }
        Map<String, Integer> found = new HashMap<String, Integer>();
        Map<String, Integer> counts = new HashMap<String, Integer>();
        for (int i = 0; i < Math.min(positions.size(), places.size()); i++) {
            SpecialTokens.Place place = places.get(i);
            int count = (counts.containsKey(place.kind) ? counts.get(place.kind) : 0) + 1;
            counts.put(place.kind, count);
            found.put(place.kind + (place.number == null ? count : place.number), positions.get(i));
        }
        List<Integer> result = new ArrayList<Integer>();
        counts.clear();
        int expected = 0;
        for (Turn turn : turns) {
            for (String kind : turn.kinds) {
                expected++;
                int number = (counts.containsKey(kind) ? counts.get(kind) : 0) + 1;
                counts.put(kind, number);
                result.add(found.remove(kind + number));
            }
        }
        if (positions.size() != expected || result.contains(null) || !found.isEmpty()) {
            throw PalmtopException.input("chat_template.jinja: the rendered prompt has " + positions.size()
                    + " places for media, expected " + expected + ": one for each image and sound of the messages");
        }
        int[] array = new int[expected];
        for (int i = 0; i < expected; i++) {
            array[i] = result.get(i);
        }
        return array;
    }

    private static void checkUnicode(String text) {
        for (int i = 0; text != null && i < text.length(); i++) {
            char letter = text.charAt(i);
            boolean isPair = Character.isHighSurrogate(letter)
                    && i + 1 < text.length()
                    && Character.isLowSurrogate(text.charAt(i + 1));
            if (Character.isSurrogate(letter) && !isPair) {
                throw PalmtopException.input("text: found a lone surrogate at " + text.codePointCount(0, i)
                        + ", expected valid Unicode");
            }
            i += isPair ? 1 : 0;
        }
    }
}
