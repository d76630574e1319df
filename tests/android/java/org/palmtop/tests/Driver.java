package org.palmtop.tests;

import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.util.LinkedHashMap;
import java.util.Map;
import org.palmtop.core.PalmtopException;
import org.palmtop.core.bundle.Json;

/** The core, asked by tests: one JSON object per line in, one per line out. */
public final class Driver {
    private Driver() {}

    public static void main(String[] arguments) throws Exception {
        PrintStream out = new PrintStream(System.out, true, "UTF-8");
        BufferedReader in = new BufferedReader(new InputStreamReader(System.in, "UTF-8"));
        Questions questions = new Questions();
        EngineQuestions engine = new EngineQuestions();
        for (String line = in.readLine(); line != null; line = in.readLine()) {
            Map<String, Object> answer = new LinkedHashMap<String, Object>();
            try {
                Request request = new Request((Map<?, ?>) Json.parse(line));
                Object value = questions.answer(request);
                answer.put("value", value == Questions.NOT_MINE ? engine.answer(request) : value);
            } catch (PalmtopException error) {
                answer.put("kind", error.kind().name());
                answer.put("error", error.getMessage());
                answer.put("code", error.code());
                answer.put("path", error.path());
            } catch (Throwable error) {
                error.printStackTrace();
                answer.put("kind", error.getClass().getName());
                answer.put("error", String.valueOf(error.getMessage()));
            }
            out.println("answer " + Request.write(answer));
        }
    }
}
